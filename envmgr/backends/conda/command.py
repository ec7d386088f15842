"""One call of the site's conda: its environment, its channels, and its answer.

What conda is told by variables, which win over its files: never to ask, to upload, to tell of new versions, to register
an environment or to follow soft links; which channels count with which priority; and what the settings of envmgr say of
the network, as far as they say something. Everything else is as its own ``.condarc`` files have it: proxies,
certificates, logins, plugins, the solver. Of the caller's variables it gets only those that say which of these files
count (`SURROUNDINGS`).

Channels are given by names of ours (``envmgr-0``, …) that stand for their URLs in a configuration file of the build,
which takes the place of the one that ``$CONDARC`` names and has all that is in it. So ``channel::package`` means the
channel that the settings mean, and credentials appear in no list of processes. mamba 2 and micromamba get a channel of
one URL without credentials by that URL. A channel that has mirrors is looked for at the first; lockfiles have its own
URL. How priorities work is conda's own affair: a strict one counts before a requirement's own channel, and the URLs of
one channel are tiers of their own, other than with rattler.

Standard output, which is the answer, goes into a file: a tool's two streams are one in the log, and warnings would tear
the JSON apart. No call takes longer than `_LONGEST_S`; a build's own deadline is usually shorter.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from envmgr.backends.conda.answers import failure, last_object
from envmgr.backends.conda.executable import PASSED_ON, SURROUNDINGS, Conda
from envmgr.backends.rattler.network import candidates
from envmgr.errors import TimedOut
from envmgr.events import Event, Phase, Reporter
from envmgr.lockfile import strip_credentials
from envmgr.settings import condarc
from envmgr.settings.redact import redact

if TYPE_CHECKING:
    from envmgr.backends.processes import Finished
    from envmgr.wire.pipe import BuildRequest, Network

_LONGEST_S = 3600.0
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_QUIET = {
    "ADD_PIP_AS_PYTHON_DEPENDENCY": "false",  # what a spec does not ask for is not installed
    "ALLOW_SOFTLINKS": "false",
    "ALWAYS_COPY": "false",
    "ALWAYS_SOFTLINK": "false",
    "ANACONDA_ANON_USAGE": "false",
    "AUTO_UPDATE_CONDA": "false",
    "CREATE_DEFAULT_PACKAGES": "",
    "NOTIFY_OUTDATED_CONDA": "false",
    "NUMBER_CHANNEL_NOTICES": "0",
    "PINNED_PACKAGES": "",
    "REGISTER_ENVS": "false",
    "REPODATA_FNS": "repodata.json",  # "current" ones lack what a solve may need
    "REPORT_ERRORS": "false",
    "SHORTCUTS": "false",
}


class Runner(Protocol):
    """`envmgr.backends.processes.run` with the lease's descriptor bound."""

    def __call__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        environ: Mapping[str, str],
        on_line: Callable[[str], None] = ...,
        cwd: Path | None = ...,
        pass_fds: Sequence[int] = ...,
        timeout_s: float | None = ...,
    ) -> Finished: ...


class Caller:
    """Calls one conda for one build; its files stand in `scratch`, which must be there."""

    def __init__(self, conda: Conda, request: BuildRequest, run: Runner, scratch: Path, report: Reporter) -> None:
        self.conda = conda
        self._request = request
        self._run = run
        self._scratch = scratch
        self._report = report
        self._count = 0
        self._condarc = scratch / "condarc"

    def names(self) -> tuple[str, ...]:
        """Return what the channels of the request are called here, and make those names known to conda."""
        many: dict[str, list[str]] = {}
        names = []
        for number, channel in enumerate(self._request.channels):
            name = f"envmgr-{number}"
            places = [self._place(url) for url in channel.urls]
            if self.conda.is_libmamba and len(places) == 1 and strip_credentials(places[0]) == places[0]:
                name = places[0]
            else:
                many[name] = places
            names.append(name)
        document = self._own_document()
        known = document.get("custom_multichannels")
        # JSON is YAML, too. Credentials may stand in it.
        fd = os.open(self._condarc, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(
                {**document, "custom_multichannels": {**known, **many} if isinstance(known, dict) else many}, file
            )
        return tuple(names)

    def original(self, url: str) -> str:
        """Return a package's URL, without credentials, where the channel is and not the mirror that conda was told."""
        url = strip_credentials(url)
        for channel in self._request.channels:
            for known in channel.urls:
                place = f"{strip_credentials(self._place(known))}/"
                if url.startswith(place):
                    return f"{strip_credentials(known).rstrip('/')}/{url[len(place) :]}"
        return url

    def _place(self, url: str) -> str:
        """Return where conda looks for a channel: at its first mirror, if the settings have one."""
        return candidates(f"{url.rstrip('/')}/", self._request.network)[0].rstrip("/")

    def _own_document(self) -> Mapping[str, object]:
        """Return what stands in the file that ``$CONDARC`` names, in whose place ours comes."""
        path = Path(dict(self._request.conda_environ).get("CONDARC") or "/nonexistent")
        return condarc.parse(path.read_text(encoding="utf-8"), path) if path.is_file() else {}

    def ask(
        self,
        arguments: Sequence[str],
        *,
        cache: Path,
        phase: Phase,
        doing: str,
        environ: Mapping[str, str],
        locks: Sequence[int] = (),
    ) -> Mapping[str, object]:
        """Run conda with these arguments on one package cache; return its answer, or raise what its failure means.

        `locks` are descriptors that it and what it starts keep open.
        """
        self._count += 1
        answer = self._scratch / f"answer-{self._count}.json"
        lines: list[str] = []

        def on_line(line: str) -> None:
            lines.append(redact(line))
            self._report(Event("log", phase, lines[-1]))

        self._report(Event("log", phase, f"{self.conda}: {redact(' '.join(arguments))}"))
        finished = self._run(
            ["/bin/sh", "-c", 'exec "$@" >"$ENVMGR_ANSWER"', "sh", self.conda.path, *arguments],
            environ={**self._environ(cache), **environ, "ENVMGR_ANSWER": str(answer)},
            on_line=on_line,
            cwd=self._scratch,
            pass_fds=locks,
            timeout_s=_LONGEST_S,
        )
        text = answer.read_text("utf-8", "replace") if answer.exists() else ""
        found = last_object(text)
        if finished.is_timed_out:
            raise TimedOut(
                f"{doing}: {self.conda} did not end within {_LONGEST_S:g} s", hint="the build's log says more"
            )
        if finished.status != 0 or (found is not None and (found.get("success") is False or "exception_name" in found)):
            raise failure(found, lines or text.splitlines(), doing)
        return found or {}  # installing from a list, conda says nothing

    def _environ(self, cache: Path) -> dict[str, str]:
        """Return all variables of a call; those of conda's settings under both prefixes, as mamba 2 has its own."""
        request = self._request
        settings = {**_QUIET, "CHANNEL_PRIORITY": request.channel_priority, **_network(request.network)}
        given = dict(request.conda_environ)
        return {
            **{name: given[name] for name in SURROUNDINGS if name in given},
            "PATH": _SYSTEM_PATH,
            "LANG": "C.UTF-8",
            "TMPDIR": str(self._scratch),
            PASSED_ON: "1",
            **{f"{owner}_{key}": value for key, value in settings.items() for owner in ("CONDA", "MAMBA")},
            **_variables(request.network),
            "CONDA_PKGS_DIRS": str(cache),
            "CONDA_SUBDIR": request.subdir,
            **({"CONDARC": str(self._condarc)} if self._condarc.exists() else {}),
            "MAMBA_NO_BANNER": "1",
            "PYTHONIOENCODING": "utf-8",
        }


def _network(network: Network) -> dict[str, str]:
    """Return conda's settings for what the settings of envmgr say of the network; where they are silent, nothing."""
    found = {
        "REMOTE_READ_TIMEOUT_SECS": f"{network.timeout_s:g}",
        "REMOTE_MAX_RETRIES": str(network.max_retries),
    }
    if network.is_offline:
        found["OFFLINE"] = "true"
    if network.ca_file is not None:
        found["SSL_VERIFY"] = network.ca_file
    if not network.verify_tls:
        found["SSL_VERIFY"] = "false"
    return found


def _variables(network: Network) -> dict[str, str]:
    """Return the variables that every program knows."""
    proxies = dict(network.proxies)
    names = {"http": "HTTP_PROXY", "https": "HTTPS_PROXY", "no": "NO_PROXY"}
    found = {name: proxies[key] for key, name in names.items() if proxies.get(key)}
    found |= {name.lower(): value for name, value in found.items()}
    if network.netrc_file is not None:
        found["NETRC"] = network.netrc_file
    return found
