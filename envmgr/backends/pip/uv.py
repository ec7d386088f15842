"""Starts uv: its environment, its progress, and what its errors mean.

Everything that uv may know is in the variables that are made here; nothing secret is on a command line, which every
user of the machine can read. Indexes, proxies and credentials go in as ``UV_…``, ``…_PROXY`` and ``NETRC``.

A spec's variables are for builds from source (compilers, flags, where libraries are). Those by which uv, git, ssh, TLS,
a shell or an interpreter could be steered are left out, and what is made here wins over all others: credentials,
authorities and proxies come from the settings alone.

A mirror of the settings stands in for the URL prefix that it mirrors, here: the first one only, since uv knows no
fail-over. What comes back (in a solution) is turned into the canonical URL again, so that lockfiles do not depend on
who was asked.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import quote

from uv import find_uv_bin

from envmgr.backends.pip.interpreter import python_of
from envmgr.backends.pip.options import Options, translate
from envmgr.backends.processes import Finished
from envmgr.errors import (
    BuildFailed,
    ChannelError,
    Corrupt,
    EnvmgrError,
    InvalidSpec,
    NetworkError,
    NoSpace,
    Offline,
    PermissionRefused,
    Unsatisfiable,
)
from envmgr.events import Event, Reporter
from envmgr.settings.redact import redact
from envmgr.wire.pipe import Network, PipSettings

_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
_MESSAGE_MAX_CHARS = 6000
_BUILD_DATE = "946684800"
"""2000-01-01, in seconds since 1970: a wheel is a zip file, which knows no time before 1980."""
_STEERING_PREFIXES = (
    "UV_", "PIP_", "PYTHON", "CONDA_", "MAMBA_", "RATTLER_", "ENVMGR_", "VIRTUAL_ENV",
    "GIT_", "SSH_", "XDG_",  # git reads its configuration below XDG_CONFIG_HOME, too
    "SSL", "CURL_", "REQUESTS_", "NETRC", "KRB5", "AWS_", "HF_", "GOOGLE_APPLICATION_",
    "LD_", "DYLD_", "BASH", "GLIBC_", "MALLOC_",
)  # fmt: skip
_STEERING_SUFFIXES = ("_PROXY", "_CA_BUNDLE")
_STEERING_NAMES = frozenset(
    {
        "PATH", "HOME", "TMPDIR", "TMP", "TEMP", "ENV", "SHELL", "SHELLOPTS", "IFS", "PS4", "CDPATH", "RUST_LOG",
        "OPENSSL_CONF", "OPENSSL_ENGINES", "OPENSSL_MODULES", "GCONV_PATH", "LOCPATH", "HOSTALIASES", "LOCALDOMAIN",
        "RES_OPTIONS",
    }
)  # fmt: skip


class Runner(Protocol):
    """`envmgr.backends.processes.run`, or the same with the lease's descriptor bound."""

    def __call__(
        self,
        command: Sequence[str | PathLike[str]],
        *,
        environ: Mapping[str, str],
        on_line: Callable[[str], None] = ...,
        cwd: Path | None = ...,
    ) -> Finished: ...


@dataclass(frozen=True, slots=True)
class Uv:
    """uv, told everything about one prefix and one site; `scratch` is a private directory for its files."""

    prefix: Path
    scratch: Path
    environ: Mapping[str, str]
    options: Options
    mirrors: tuple[tuple[str, str], ...]
    run: Runner
    report: Reporter

    def pip(
        self,
        command: Literal["compile", "install", "check"],
        *arguments: str | PathLike[str],
        phase: Literal["pip-lock", "pip", "check"],
        total: int = 0,
    ) -> Finished:
        """Run ``uv pip <command>`` for the prefix; its lines go to the log, packages to the progress."""
        watch = _Watch(self.report, phase, total)
        parts: list[str | PathLike[str]] = [find_uv_bin(), "pip", command, "--python", python_of(self.prefix)]
        return self.run([*parts, *arguments], environ=self.environ, on_line=watch, cwd=self.scratch)

    def build_wheel(self, source: Path, directory: Path) -> Finished:
        """Build a source distribution's wheel into a new `directory`, as an installation for the prefix would.

        With a fixed date, so that most build backends make the same bytes of the same sources again.
        """
        arguments = ["--no-index"] if self.options.has_no_index else []
        command: list[str | PathLike[str]] = [
            find_uv_bin(), "build", "--wheel", "--python", python_of(self.prefix), "--out-dir", directory,
            "--no-create-gitignore", "--no-sources", *self.options.build_flags, *arguments, source,
        ]  # fmt: skip
        watch = _Watch(self.report, "pip-lock", 0)
        environ = {"SOURCE_DATE_EPOCH": _BUILD_DATE, **self.environ}
        return self.run(command, environ=environ, on_line=watch, cwd=self.scratch)

    def forget(self, names: Sequence[str]) -> None:
        """Delete all that the cache has of these packages; waits for other processes of uv that use it."""
        watch = _Watch(self.report, "pip", 0)
        command = [find_uv_bin(), "cache", "clean", *names]
        finished = self.run(command, environ=self.environ, on_line=watch, cwd=self.scratch)
        if finished.status != 0:
            raise translate_failure(finished, "uv's cache cannot be cleaned")

    def with_find_links(self, links: str) -> Uv:
        """Return the same with another list of places of files."""
        return replace(self, environ={**self.environ, "UV_FIND_LINKS": links})

    def mirrored(self, url: str) -> str:
        """Return where to get what `url` names."""
        return _moved(url, self.mirrors)

    def canonical(self, url: str) -> str:
        """Return the name of what was got from `url`."""
        return _moved(url, tuple((mirror, prefix) for prefix, mirror in self.mirrors))


@contextmanager
def prepared(
    prefix: Path,
    *,
    settings: PipSettings,
    network: Network,
    uv_cache: Path,
    environ: Mapping[str, str],
    run: Runner,
    report: Reporter,
) -> Iterator[Uv]:
    """Make what uv needs to run for `prefix`, and take it away at the end.

    Of `environ`, a spec's variables, builds from source see what steers no tool; see the module.
    """
    options = translate(settings.options)
    mirrors = tuple((prefix_, found[0]) for prefix_, found in network.mirrors if found)
    with tempfile.TemporaryDirectory(prefix="envmgr-pip-") as directory:
        scratch = Path(directory)
        home = scratch / "home"
        home.mkdir()
        if network.netrc_file:
            (home / ".netrc").symlink_to(network.netrc_file)  # for git, which looks nowhere else
        variables = {
            **_for_builds(environ),
            **_base(prefix, home, uv_cache),
            **_network(network),
            **_indexes(settings, options, mirrors),
        }
        hosts = ["*"] if not network.verify_tls else options.trusted_hosts
        if hosts:
            variables["UV_INSECURE_HOST"] = " ".join(hosts)
        yield Uv(prefix, scratch, variables, options, mirrors, run, report)


def _for_builds(variables: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in variables.items()
        if name not in _STEERING_NAMES
        and not name.startswith(_STEERING_PREFIXES)
        and not name.upper().endswith(_STEERING_SUFFIXES)  # programs read proxies in either case
    }


def _base(prefix: Path, home: Path, uv_cache: Path) -> dict[str, str]:
    return {
        "PATH": f"{prefix}/bin:{_SYSTEM_PATH}",
        "CONDA_PREFIX": str(prefix),  # where a build from source looks for the environment's libraries
        "HOME": str(home),
        "TMPDIR": str(home),
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
        "UV_CACHE_DIR": str(uv_cache),
        "UV_KEYRING_PROVIDER": "disabled",
        "UV_LINK_MODE": "hardlink",
        "UV_NO_CONFIG": "1",
        "UV_NO_ENV_FILE": "1",
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
    }


def _network(network: Network) -> dict[str, str]:
    found = {
        "UV_HTTP_TIMEOUT": str(max(1, round(network.timeout_s))),
        "UV_HTTP_RETRIES": str(network.max_retries),
        "UV_CONCURRENT_DOWNLOADS": str(max(1, network.parallel_downloads)),
    }
    if network.is_offline:
        found["UV_OFFLINE"] = "1"
    if network.ca_file:
        found |= {"SSL_CERT_FILE": network.ca_file, "GIT_SSL_CAINFO": network.ca_file}
    if not network.verify_tls:
        found["GIT_SSL_NO_VERIFY"] = "1"
    if network.netrc_file:
        found["NETRC"] = network.netrc_file
    for scheme, value in network.proxies:
        key = f"{scheme.upper()}_PROXY"
        found |= {key: value, key.lower(): value}  # each program reads another spelling
    return found


def _indexes(settings: PipSettings, options: Options, mirrors: tuple[tuple[str, str], ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    index_url = options.index_url or settings.index_url
    extra = [*options.extra_index_urls, *settings.extra_index_urls]
    links = [*options.find_links, *settings.find_links]
    if not options.has_no_index:
        if index_url:
            found["UV_DEFAULT_INDEX"] = _moved(index_url, mirrors)
        if extra:
            found["UV_INDEX"] = " ".join(_moved(url, mirrors) for url in extra)
            found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if links:
        found["UV_FIND_LINKS"] = ",".join(place(_moved(link, mirrors)) for link in links)
    return found


def place(link: str) -> str:
    """Return a place of files as uv's list of them takes it, where a comma would end it."""
    url = link if "://" in link else Path(link).absolute().as_uri()
    return url.replace(",", quote(",", safe=""))


def _moved(url: str, moves: tuple[tuple[str, str], ...]) -> str:
    for old, new in moves:
        if url.startswith(old.rstrip("/") + "/") or url == old.rstrip("/"):
            return new.rstrip("/") + url[len(old.rstrip("/")) :]
    return url


# --------------------------------------------------------------------------------------------------------- what uv says

_STEP = re.compile(
    r"^\s*(?P<verb>Downloading|Downloaded|Building|Built|Updating|Updated|Preparing|\+) (?P<what>[^\s(=]+)"
)


class _Watch:
    """Turns uv's lines into events: each to the log, the steps of single packages to the progress."""

    def __init__(self, report: Reporter, phase: Literal["pip-lock", "pip", "check"], total: int) -> None:
        self._report = report
        self._phase = phase
        self._total = total
        self._done = 0

    def __call__(self, line: str) -> None:
        text = redact(line)
        self._report(Event("log", self._phase, text))
        step = _STEP.match(text)
        if not step:
            return
        verb, what = step.group("verb", "what")
        if verb == "+":
            self._done += 1
            verb = "Installed"
        done = min(self._done, self._total) if self._total else self._done
        self._report(Event("progress", self._phase, f"{verb} {what}", done, self._total, "packages"))


_CLIENT_ERROR = re.compile(r"HTTP status client error \((\d+)|\b(401 Unauthorized|403 Forbidden)\b")
_BROKEN = (
    "error sending request", "HTTP status server error", "operation timed out", "error decoding response body",
    "connection closed", "Request failed after",
)  # fmt: skip
_GIT = ("Git operation failed", "failed to fetch", "failed to clone", "Failed to resolve Git")


def translate_failure(finished: Finished, doing: str) -> EnvmgrError:
    """Say what uv's failure means to a caller, with uv's own explanation, without credentials and marks."""
    text = explanation(finished)
    low = text.lower()
    message = f"{doing}: {text}"
    if "hash mismatch" in low:
        return Corrupt(message, hint="the index or a proxy gives other bytes than the lockfile names")
    if "network connectivity is disabled" in low or "network was disabled" in low:
        return Offline(message, hint="offline mode is on, and this is not in uv's cache")
    if "no space left on device" in low or "os error 28" in low:
        return NoSpace(message)
    if "permission denied" in low or "read-only file system" in low:
        return PermissionRefused(message)
    return _network_failure(text, message) or _other_failure(text, message)


def _network_failure(text: str, message: str) -> EnvmgrError | None:
    if _CLIENT_ERROR.search(text):
        return ChannelError(message, hint="check the index's URL, and the credentials in the site's netrc file")
    if any(part in text for part in _BROKEN):
        return NetworkError(message)
    if any(part in text for part in _GIT):
        return (
            NetworkError(message)
            if "Could not resolve host" in text or "unable to access" in text
            else ChannelError(message)
        )
    return None


def _other_failure(text: str, message: str) -> EnvmgrError:
    if "No solution found" in text or "requirements are unsatisfiable" in text:
        return Unsatisfiable(message)
    if "Couldn't parse" in text:
        return InvalidSpec(message)
    return BuildFailed(message)


def explanation(finished: Finished) -> str:
    """Return the part of uv's output that explains its failure, as plain readable text."""
    lines = [redact(line) for line in finished.tail]
    start = next((index for index, line in enumerate(lines) if line.startswith("error:")), None)
    if start is None:
        start = max(0, len(lines) - 20)
    text = "\n".join(lines[start:]).strip()
    text = re.sub(r"(?m)^error: ", "", text)
    text = re.sub(r"(?m)^ +cause: ", "", text)
    if not text:
        return f"uv ended with status {finished.status}"
    return text if len(text) <= _MESSAGE_MAX_CHARS else text[:_MESSAGE_MAX_CHARS] + " …"
