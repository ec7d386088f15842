"""What the daemon counts, for Prometheus: `Metrics.text` is the answer to ``/metrics``.

Counted as they happen: changes with their outcome, builds and their phases, downloaded bytes, requests. Looked at when
somebody asks: operations, waiters, connections, leased builds, environments, free space; and the process's own memory,
time and descriptors. A scrape costs a look at each build's lease and one at ``/proc/locks`` (see `usage.held`).

What is counted is this object's own, not the process's. Every label has a bounded number of values: what is not among
them is ``other``.

Source: Prometheus's text format; its naming practices.
"""

from __future__ import annotations

import threading
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from envmgr import errors, events
from envmgr.manager.context import free_space
from envmgr.model import Caller
from envmgr.store import publication, sweep, usage
from envmgr.store.layout import Layout
from envmgr.version import __version__
from envmgr.wire.socket import PREFIX, Operation

CONTENT_TYPE = CONTENT_TYPE_LATEST
BUILDING = frozenset({"ensure", "relock", "repair"})
"""The changes that can come to a build."""

_OTHER = "other"
_READY_AT_ONCE = ("POST", f"{PREFIX}/environments", 200)
_MOST_WORDS = 100
"""Different values of a label that others choose: routes and the names of changes."""
_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
_PHASES: frozenset[str] = frozenset(typing.get_args(events.Phase))
_OUTCOMES = frozenset({"succeeded", "failed", "cancelled", "refused"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})


class Metrics:
    """Counters of one daemon; every method may be called from any thread."""

    def __init__(
        self, layout: Layout, *, operations: Callable[[], Iterable[Operation]], connections: Callable[[], int]
    ) -> None:
        """Look at `operations` (the unfinished ones count) and `connections` at each scrape."""
        self._registry = registry = CollectorRegistry()
        self._words = _Words()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"envmgr_{name}", what, labels, registry=registry)

        def durations(name: str, what: str, *labels: str) -> Histogram:
            return Histogram(f"envmgr_{name}_seconds", what, labels, registry=registry, buckets=_BUCKETS_S)

        ProcessCollector(registry=registry)
        Gauge("envmgr_info", "The version.", ["version"], registry=registry).labels(__version__).set(1)
        self._changes = counter("changes", "Changes that were asked for.", "what", "outcome")
        self._failures = counter("failures", "Changes that did not succeed, by the error's code.", "what", "code")
        self._builds = counter("builds", "Builds, and what failed to become one, by the code.", "outcome", "code")
        self._build_s = durations("build_duration", "How long successful builds took, waiting included.")
        self._phase_s = durations("phase_duration", "How long the phases of successful builds took.", "phase")
        self._hits = counter(
            "cache_hits", "Asked-for environments that were ready; builds that downloaded nothing.", "cache"
        )
        self._downloaded = counter("downloaded_bytes", "Bytes that builds downloaded.")
        self._taken = counter("sibling_bytes", "Bytes that builds got from other hosts of the cluster.")
        self._requests = counter("requests", "HTTP requests.", "method", "route", "status")
        registry.register(_Now(layout, operations, connections))

    def changed(
        self,
        caller: Caller,  # noqa: ARG002 - the observer's; who asks is no label
        what: str,
        name: str | None,  # noqa: ARG002
        outcome: str,
        duration_s: float,
        **facts: object,
    ) -> None:
        """Count one change; of the facts, looks at ``code``, ``was_built``, ``phases_s`` and the kinds of bytes.

        And at ``is_repeated``: a failure that was remembered, and nothing tried, is no build.
        """
        what = self._words.bounded("what", what)
        outcome = outcome if outcome in _OUTCOMES else _OTHER
        code = str(facts.get("code") or "")
        code = code if code in errors.TABLE or not code else _OTHER
        is_success = outcome == "succeeded"
        self._changes.labels(what, outcome).inc()
        if not is_success:
            self._failures.labels(what, code).inc()
        if what in BUILDING:
            if facts.get("was_built") if is_success else outcome != "refused" and not facts.get("is_repeated"):
                self._builds.labels(outcome, code).inc()
            elif is_success:
                self._hits.labels("environments").inc()
            if is_success and facts.get("was_built"):
                self._built(duration_s, facts)

    def _built(self, duration_s: float, facts: Mapping[str, object]) -> None:
        self._build_s.observe(duration_s)
        phases_s, downloaded_bytes = facts.get("phases_s"), facts.get("downloaded_bytes")
        if isinstance(phases_s, Mapping):
            for phase, phase_s in phases_s.items():
                self._phase_s.labels(phase if phase in _PHASES else _OTHER).observe(phase_s)
        sibling_bytes = facts.get("sibling_bytes")
        if isinstance(sibling_bytes, int):
            self._taken.inc(sibling_bytes)
        if isinstance(downloaded_bytes, int):
            self._downloaded.inc(downloaded_bytes)
            if not downloaded_bytes and not sibling_bytes:
                self._hits.labels("packages").inc()

    def request(self, method: str, route: str, status: int) -> None:
        """Count one answered request; `route` is the route's template, never the path, or empty where there is none."""
        method = method if method in _METHODS else _OTHER
        self._requests.labels(method, self._words.bounded("route", route or _OTHER), str(status)).inc()
        if (method, route, status) == _READY_AT_ONCE:
            self._hits.labels("environments").inc()

    def text(self) -> bytes:
        """Return the answer to a scrape, in `CONTENT_TYPE`; blocks for some milliseconds."""
        return generate_latest(self._registry)


class _Words:
    """Keeps labels that others choose within bounds: the first `_MOST_WORDS` of a kind are known, the rest are not."""

    def __init__(self) -> None:
        self._known: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    def bounded(self, kind: str, word: str) -> str:
        with self._lock:
            known = self._known.setdefault(kind, set())
            if word not in known:
                if len(known) >= _MOST_WORDS:
                    return _OTHER
                known.add(word)
            return word


class _Now(Collector):
    """What is so at this moment."""

    def __init__(
        self, layout: Layout, operations: Callable[[], Iterable[Operation]], connections: Callable[[], int]
    ) -> None:
        self._layout = layout
        self._operations = operations
        self._connections = connections

    def collect(self) -> Iterator[GaugeMetricFamily]:
        unfinished = {"queued": 0, "running": 0}
        waiters = 0
        for operation in self._operations():
            if operation.state in unfinished:
                unfinished[operation.state] += 1
                waiters += operation.waiters
        family = GaugeMetricFamily("envmgr_operations", "Operations that are not finished.", labels=["state"])
        for state, count in unfinished.items():
            family.add_metric([state], count)
        yield family
        free_bytes, free_inodes = free_space(self._layout.root)
        yield _gauge("waiters", "Connections that wait for an operation.", waiters)
        yield _gauge("connections", "Open connections.", self._connections())
        yield _gauge("leased_builds", "Builds that are leased, those being made included.", self._leased())
        yield _gauge("environments", "Environments that are published.", len(publication.published(self._layout)))
        yield _gauge("free_bytes", "Bytes free for the store.", free_bytes)
        if free_inodes is not None:
            yield _gauge("free_inodes", "Inodes free for the store.", free_inodes)

    def _leased(self) -> int:
        leases = [self._layout.build(build_id).lease for build_id in sweep.all_builds(self._layout)]
        return len(usage.held(leases, self._layout.root / "owner"))


def _gauge(name: str, what: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"envmgr_{name}", what, value)
