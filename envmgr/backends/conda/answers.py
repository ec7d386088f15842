"""What conda, mamba and micromamba say: the JSON in their output, and their failures as errors of ours.

conda and mamba 1 answer a failure with an object that has ``exception_name``; mamba 2 and micromamba with
``{"success": false, "solver_problems": […]}`` for what cannot be solved, and with lines on their standard error for
everything else. Every text that leaves here has gone through `redact`.

Source: conda's ``exceptions.py``; conda-libmamba-solver's and conda-anaconda-tos' exceptions; mamba issues 1802, 2513.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from envmgr.backends.rattler.errors import CREDENTIALS_HINT
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
    TimedOut,
    Unsatisfiable,
)
from envmgr.settings.redact import redact

_UNSATISFIABLE_HINT = "relax one of the named requirements, or add the channel that has the package"
_TERMS_HINT = (
    "the store's owner accepts the channel's terms of service with `conda tos accept`, or default_channels names"
    " channels without any, such as conda-forge"
)
_NETWORK_HINT = "check the network, the settings proxies and ca_file, and conda's own .condarc"
_SHOWN_CHARS = 4000

_UNSATISFIABLE = frozenset({
    "CyclicalDependencyError", "LibMambaUnsatisfiableError", "PackagesNotFoundError", "PackagesNotFoundInChannelsError",
    "RattlerUnsatisfiableError", "ResolvePackageNotFound", "SpecNotFound", "SpecsConfigurationConflictError",
    "UnsatisfiableError",
})  # fmt: skip
_INVALID = frozenset({"InvalidMatchSpec", "InvalidSpec", "InvalidVersionSpec"})
_CHANNEL = frozenset({
    "AuthenticationError", "ChannelDenied", "ChannelError", "ChannelNotAllowed", "UnavailableInvalidChannel",
})  # fmt: skip
_UNREACHED = frozenset({"CondaSSLError", "ConnectionFailed", "ProxyError"})
_NOT_WRITABLE = frozenset({
    "EnvironmentNotWritableError", "NoWritableEnvsDirError", "NoWritablePkgsDirError", "NotWritableError",
})  # fmt: skip

_STATUS = re.compile(r"\bHTTP (\d{3})\b|\bstatus(?: code)?:? (\d{3})\b|\bresponse code (\d{3})\b", re.IGNORECASE)
_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded|\[Errno (?:28|122)\]|NoSpaceLeftError")
_NO_SOLUTION = re.compile(
    r"could not solve for environment spec|nothing provides|encountered problems while solving|"
    r"the following packages? (?:are incompatible|could not be found|is not installable)|package not found",
    re.IGNORECASE,
)
_NO_CONNECTION = re.compile(
    r"could not resolve host|couldn't connect|connection (?:refused|reset|failed|timed out)|timeout was reached|"
    r"download error|multi-download failed|SSL (?:peer )?certificate",
    re.IGNORECASE,
)
_NOT_CACHED = re.compile(r"offline|EnforceUnusedAdapter", re.IGNORECASE)
_LOCKED = re.compile(r"LockError|could not (?:set|acquire) (?:the )?lock|failed to acquire.*lock", re.IGNORECASE)
_STATUSES_THAT_PASS = frozenset({408, 425, 429})


def last_object(text: str) -> Mapping[str, object] | None:
    """Return the last JSON object in `text` that begins a line, or ``None``.

    Warnings and progress stand before it in what some versions print, and mamba 1 prints conda's object before its own.
    """
    decoder = json.JSONDecoder()
    found: Mapping[str, object] | None = None
    at = 0
    while (at := text.find("{", at)) >= 0:
        if at and text[at - 1] not in "\n\r\0":
            at += 1
            continue
        try:
            document, at = decoder.raw_decode(text, at)
        except ValueError:
            at += 1
        else:
            found = document
    return found


def failure(answer: Mapping[str, object] | None, lines: Sequence[str], doing: str) -> EnvmgrError:
    """Return the error for a run that failed: its `answer`, if it gave one, and the last `lines` that it wrote."""
    answer = answer or {}
    problems = answer.get("solver_problems")
    if isinstance(problems, list) and problems:
        # mamba's list is short; what stands on standard error explains more.
        explained = "\n".join(lines) if any(map(_NO_SOLUTION.search, lines)) else "\n".join(map(str, problems))
        return Unsatisfiable(f"{doing}: {_cut(explained)}", hint=_UNSATISFIABLE_HINT)
    name = str(answer.get("exception_name") or "")
    said = answer.get("message") or answer.get("error") or "\n".join(lines[-20:])
    text = _cut(str(said))
    return _named(name, text, doing) or _described(text, doing)


def _named(name: str, text: str, doing: str) -> EnvmgrError | None:  # noqa: PLR0911 - one branch per kind
    """Return the error for one of conda's exceptions, if it is one that says enough."""
    said = f"{doing}: {text}"
    if _NO_SPACE.search(text) or name == "NoSpaceLeftError":
        # Before all others: conda calls a full disk a lack of permission, too (conda issue 9823).
        return NoSpace(said, hint="`envmgr gc` frees what no environment uses")
    if name in _UNSATISFIABLE:
        return Unsatisfiable(said, hint=_UNSATISFIABLE_HINT)
    if name in _INVALID:
        return InvalidSpec(said)
    if name.startswith("CondaToS"):
        return ChannelError(said, hint=_TERMS_HINT)
    if name == "OfflineError":
        return Offline(said, hint="offline mode is on (setting offline) and conda does not have it in its cache")
    if name == "CondaHTTPError" or name in _CHANNEL:
        return _of_status(text, said)
    if name in _UNREACHED:
        return NetworkError(said, hint=_NETWORK_HINT)
    if name == "LockError":
        return TimedOut(said, hint="another conda uses the same cache; try again")
    if name in _NOT_WRITABLE:
        return PermissionRefused(said)
    if name == "ChecksumMismatchError":
        return Corrupt(said)
    return None


def _described(text: str, doing: str) -> EnvmgrError:
    """Return the error for a text alone, as mamba and micromamba give it."""
    said = f"{doing}: {text}"
    if _NO_SOLUTION.search(text):
        return Unsatisfiable(said, hint=_UNSATISFIABLE_HINT)
    if _STATUS.search(text):
        return _of_status(text, said)
    if _LOCKED.search(text):
        return TimedOut(said, hint="another conda uses the same cache; try again")
    if _NO_CONNECTION.search(text):
        return NetworkError(said, hint=_NETWORK_HINT)
    if _NOT_CACHED.search(text):
        return Offline(said, hint="offline mode is on (setting offline) and conda does not have it in its cache")
    return BuildFailed(said, hint="the build's log has all that it wrote")


def _of_status(text: str, said: str) -> ChannelError:
    found = _STATUS.search(text)
    status = int(next(filter(None, found.groups()))) if found else None
    if status in {401, 403, 407}:
        return ChannelError(said, hint=f"{CREDENTIALS_HINT}; conda's own logins count, too", status=status)
    if status == 0:
        return NetworkError(said, hint=_NETWORK_HINT)
    if status is not None and (status >= 500 or status in _STATUSES_THAT_PASS):
        return NetworkError(said, hint="the server is in trouble; try again later", status=status)
    return ChannelError(said, hint="is the channel's name or URL right?", status=status)


def _cut(text: str) -> str:
    shown = redact(text.strip())
    return shown if len(shown) <= _SHOWN_CHARS else f"{shown[:_SHOWN_CHARS]} … (the build's log has all of it)"
