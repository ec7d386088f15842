"""Turns what rattler raises into errors of ours; the only place that knows its types and texts.

rattler's exceptions are flat: a type and a text with ``Caused by:`` lines, no status and no cause. So the text decides.
It can carry URLs with credentials: every text that leaves here has gone through `redact`.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from rattler.exceptions import (
    ConvertSubdirError,
    GatewayError,
    InvalidChannelError,
    InvalidMatchSpecError,
    InvalidVersionSpecError,
    SolverError,
)

from envmgr import fsio
from envmgr.errors import (
    BuildFailed,
    ChannelError,
    EnvmgrError,
    InvalidSpec,
    NetworkError,
    NoSpace,
    Offline,
    PermissionRefused,
    Unsatisfiable,
)
from envmgr.settings.redact import redact

_STATUS = re.compile(r"(?:HTTP status \w+ error|unexpected status code) \((\d{3})[^)]*\)")
_UNREACHABLE = re.compile(
    r"error sending request|client error \(|tcp connect error|dns error|timed out|connection (?:closed|reset|refused)"
    r"|error decoding response body|Request failed after|broken pipe|unexpected end of file|stream did not finish",
    re.IGNORECASE,
)
_REQUEST = re.compile(r"for url \(([^)\s]+)\)")
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_TRANSIENT_STATUSES = frozenset({408, 425, 429})
_NOT_PERMITTED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_UNSATISFIABLE_LEAD = re.compile(r"^Cannot solve the request because of:\s*")

CREDENTIALS_HINT = "credentials come from the settings netrc_file and auth_file, never from a spec"


@contextlib.contextmanager
def translating(doing: str) -> Iterator[None]:
    """Raise what rattler raises in the block as an error of ours that begins with `doing`."""
    try:
        yield
    except EnvmgrError:
        raise
    except Exception as error:
        raise translate(error, doing) from error


def translate(error: Exception, doing: str) -> EnvmgrError:  # noqa: PLR0911 - one branch per kind
    """Return the error of ours for one that rattler (or the system below it) raised."""
    text = redact(str(error)).strip()
    if isinstance(error, SolverError):
        return Unsatisfiable(
            f"{doing}: {_UNSATISFIABLE_LEAD.sub('', text)}",
            hint="relax one of the named requirements, or add the channel that has the package",
        )
    if isinstance(error, (InvalidMatchSpecError, InvalidVersionSpecError, InvalidChannelError, ConvertSubdirError)):
        return InvalidSpec(f"{doing}: {text}")
    numbers = {int(number) for number in _OS_ERROR.findall(text)}
    if isinstance(error, OSError) and error.errno:
        numbers.add(error.errno)
    if numbers & fsio.OUT_OF_SPACE or "No space left" in text:
        return NoSpace(f"{doing}: {text}", hint="`envmgr gc` frees what no environment uses")
    if numbers & _NOT_PERMITTED:
        return PermissionRefused(f"{doing}: {text}")
    if refused := of_answer(text, doing):
        return refused
    if isinstance(error, GatewayError):
        return ChannelError(f"{doing}: {_one_line(text)}", hint="is it a conda channel, and is its index whole?")
    return BuildFailed(f"{doing}: {_one_line(text) or type(error).__name__}")


def of_answer(text: str, doing: str) -> ChannelError | None:  # noqa: PLR0911 - one branch per kind
    """Return the error for a text about an answer of a server, or about none; ``None`` for any other text."""
    said = f"{doing}: {_one_line(text)}"
    if "no usable repodata cache" in text or "is not in the cache" in text:
        return Offline(said, hint="offline mode is on (setting offline) and the channel's index is not in the cache")
    if match := _STATUS.search(text):
        status = int(match.group(1))
        if status in {401, 403, 407}:
            return ChannelError(said, hint=CREDENTIALS_HINT, status=status)
        if status >= 500 or status in _TRANSIENT_STATUSES:
            return NetworkError(said, hint="the server is in trouble; try again later", status=status)
        return ChannelError(said, hint="is the channel's name or URL right?", status=status)
    if "could not find subdir" in text:
        return ChannelError(said, hint="is the channel's name or URL right?")
    if "certificate" in text:
        return ChannelError(said, hint="the setting ca_file names the authorities that are trusted")
    if _UNREACHABLE.search(text):
        return NetworkError(
            f"{doing}: {_unreached(text)}", hint="check the network, and the settings proxies and mirrors"
        )
    return None


def _unreached(text: str) -> str:
    """Return which host was not reached and why: of rattler's chain of causes the last one, and the URL's host."""
    cause = _one_line(text).rpartition("; ")[2]
    url = _REQUEST.search(text)
    return f"{urlsplit(url.group(1)).netloc}: {cause}" if url and url.group(0) not in cause else cause


def _one_line(text: str) -> str:
    return "; ".join(line.strip().removeprefix("Caused by: ") for line in text.splitlines() if line.strip())
