"""What is counted, what a scrape looks at, and that no caller can make labels without end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
from fakes.worlds import World, make_world, spec_of
from prometheus_client.parser import text_string_to_metric_families

from envmgr.daemon.metrics import Metrics
from envmgr.model import Caller
from envmgr.wire.socket import Operation, OperationState

ANNA = Caller("anna", "use", uid=1001, pid=42)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def operation_of(state: OperationState, waiters: int) -> Operation:
    """Return an operation of which nothing else is known."""
    unknown = dict.fromkeys((field.name for field in dataclasses.fields(Operation)), None)
    return Operation(**{**unknown, "state": state, "waiters": waiters})  # type: ignore[arg-type]  # only two matter


def metrics_of(world: World, *operations: Operation) -> Metrics:
    return Metrics(world.layout, operations=lambda: operations, connections=lambda: 7)


def scraped(metrics: Metrics) -> Mapping[str, float]:
    """Return every sample of a scrape as Prometheus reads it, by its name and the values of its labels, sorted."""
    return {
        ",".join([sample.name, *sorted(filter(None, sample.labels.values()))]): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_builds_and_hits(world: World) -> None:
    """A build counts with its phases and bytes; a ready environment is a hit, and so is a build without a download."""
    metrics = metrics_of(world)
    facts = {"was_built": True, "phases_s": {"solve": 0.2, "link": 3.0}, "downloaded_bytes": 1000}
    metrics.changed(ANNA, "ensure", "env-1", "succeeded", 4.0, **facts)
    metrics.changed(ANNA, "repair", "env-1", "succeeded", 2.0, was_built=True, phases_s={}, downloaded_bytes=0)
    metrics.changed(ANNA, "ensure", "env-1", "succeeded", 0.001, was_built=False)
    metrics.request("POST", "/v1/environments", 200)
    found = scraped(metrics)
    assert found["envmgr_builds_total,succeeded"] == 2
    assert found["envmgr_build_duration_seconds_sum"] == 6.0
    assert found["envmgr_phase_duration_seconds_bucket,2.5,link"] == 0
    assert found["envmgr_phase_duration_seconds_bucket,5.0,link"] == 1
    assert found["envmgr_downloaded_bytes_total"] == 1000
    assert found["envmgr_cache_hits_total,packages"] == 1
    assert found["envmgr_cache_hits_total,environments"] == 2
    assert found["envmgr_changes_total,ensure,succeeded"] == 2


def test_failures_by_code(world: World) -> None:
    """What failed is counted by its code, as a build where it was one: what was refused or only remembered is none."""
    metrics = metrics_of(world)
    metrics.changed(ANNA, "ensure", "env-1", "failed", 4.0, code="unsatisfiable")
    metrics.changed(ANNA, "ensure", "env-1", "failed", 0.1, code="unsatisfiable", is_repeated=True)
    metrics.changed(ANNA, "ensure", None, "refused", 0.0, code="policy")
    metrics.changed(ANNA, "remove", "env-1", "refused", 0.0, code="permission")
    found = scraped(metrics)
    assert {key: value for key, value in found.items() if key.startswith("envmgr_builds_total")} == {
        "envmgr_builds_total,failed,unsatisfiable": 1
    }
    assert found["envmgr_failures_total,ensure,unsatisfiable"] == 2
    assert found["envmgr_failures_total,ensure,policy"] == 1
    assert found["envmgr_failures_total,permission,remove"] == 1


def test_labels_are_bounded(world: World) -> None:
    """Words that nobody foresaw, thousands of them, make no more series than a few hundred."""
    metrics = metrics_of(world)
    for number in range(2000):
        metrics.request(f"M{number}", f"/v1/{number}", 200)
        metrics.changed(
            ANNA, f"what-{number}", None, f"outcome-{number}", 0.0, code=f"code-{number}", phases_s={f"p{number}": 1.0}
        )
        metrics.changed(ANNA, "ensure", None, "succeeded", 0.0, was_built=True, phases_s={f"p{number}": 1.0})
    assert len(scraped(metrics)) < 1000


def test_a_scrape_looks_at_the_store(world: World) -> None:
    """Environments, leases, space, operations and connections are what they are when somebody asks."""
    metrics = metrics_of(world, operation_of("running", 3), operation_of("queued", 2), operation_of("failed", 4))
    before = scraped(metrics)
    ensured = world.manager().ensure(spec_of("numpy"))
    leased = scraped(metrics)
    ensured.lease.close()
    after = scraped(metrics)
    assert [one["envmgr_environments"] for one in (before, leased, after)] == [0, 1, 1]
    assert [one["envmgr_leased_builds"] for one in (before, leased, after)] == [0, 1, 0]
    assert [before[f"envmgr_operations,{state}"] for state in ("running", "queued")] == [1, 1]
    assert before["envmgr_waiters"] == 5
    assert before["envmgr_connections"] == 7
    assert before["envmgr_free_bytes"] > 0
    assert before["process_resident_memory_bytes"] > 1 << 20


def test_two_daemons_do_not_share(world: World) -> None:
    """What one object counted, another of the same process does not tell."""
    metrics_of(world).request("GET", "/v1/environments", 200)
    assert "/v1/environments" not in metrics_of(world).text().decode()
