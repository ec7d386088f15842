"""The value of ``runtime_env["envmgr"]``: which environment a job, a task or an actor asks for.

It is JSON, because it crosses the cluster: a name or an alias; a spec's text (with a newline) or mapping; or a mapping
of options::

    {"spec": text or mapping, or "name": name or alias,
     "timeout_s": seconds that waiting and building may take; by default a little less than Ray's own limit,
     "overlay": whether the cluster's Ray is put behind the environment's packages; by default where it has none}

A mapping with ``dependencies`` is a spec, also when it has a ``name``. A file is refused: only the driver has it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from envmgr import client, names
from envmgr.errors import EnvmgrError, UsageError
from envmgr.settings.redact import redact

_OPTIONS = ("spec", "name", "timeout_s", "overlay")
_REMEMBERED_CHARS = 1 << 16
"""A value that is longer is read again each time: what any job sends is not to fill the memory of a node's agent."""
_SHOWN_CHARS = 200


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for: `spec` is a name, an alias, a text or a mapping, as `envmgr.ensure` takes it."""

    spec: str | Mapping[str, object]
    timeout_s: float | None = None
    overlay: bool | None = None


def read(value: object) -> Request:
    """Read a value; `UsageError` where it is none. A spec's own problems are found when it is ensured."""
    if not isinstance(value, Mapping) or {"dependencies", "package"} & value.keys():
        return Request(_spec(value))
    unknown = [str(key) for key in value if key not in _OPTIONS]
    if unknown:
        raise _refused(f"there is no option {_shown(*unknown)}")
    if ("spec" in value) == ("name" in value):
        raise _refused("it takes either spec or name")
    timeout_s, overlay = value.get("timeout_s"), value.get("overlay")
    if timeout_s is not None and (isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float))):
        raise _refused(f"timeout_s is a number of seconds, not {_shown(timeout_s)}")
    if timeout_s is not None and not 0 < timeout_s < math.inf:
        raise _refused(f"timeout_s is more than nothing and has an end, not {_shown(timeout_s)}")
    if overlay is not None and not isinstance(overlay, bool):
        raise _refused(f"overlay is true or false, not {_shown(overlay)}")
    spec = _word(value["name"]) if "name" in value else _spec(value["spec"])
    return Request(spec, timeout_s, overlay)


def uri(value: object) -> str:
    """Return what Ray counts uses of an environment by: equal specs have one, however they are written.

    Never raises: Ray asks before it asks anything else, and would fail without a word.
    """
    try:
        text = json.dumps(value, sort_keys=True)
        return (_uri if len(text) <= _REMEMBERED_CHARS else _uri.__wrapped__)(text)
    except (TypeError, ValueError, RecursionError):
        return "envmgr://unreadable"


@functools.lru_cache(maxsize=1024)
def _uri(text: str) -> str:
    try:
        spec = read(json.loads(text)).spec
        word = spec if isinstance(spec, str) and not client.is_text(spec) else client.name(spec)
    except EnvmgrError:
        word = f"refused-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return f"envmgr://{word}"


def _spec(value: object) -> str | Mapping[str, object]:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, str) and client.is_text(value):
        return value
    return _word(value)


def _word(value: object) -> str:
    if isinstance(value, str) and client.is_file(value):
        raise UsageError(
            f"runtime_env['envmgr']: {_shown(value)} is a file, which only the driver can read",
            hint="envmgr.runners.ray.runtime_env(Path(…)) brings its text; so does Path(…).read_text()",
        )
    if not isinstance(value, str) or not (names.is_name(value) or names.is_alias(value)):
        raise _refused(f"{_shown(value)} is no name, alias or spec")
    return value


def _shown(*values: object) -> str:
    """Return values as an error shows them: cut short, since jobs choose them, and without credentials."""
    text = redact(", ".join(map(repr, values))[: 2 * _SHOWN_CHARS])
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]} …"


def _refused(why: str) -> UsageError:
    return UsageError(
        f"runtime_env['envmgr']: {why}",
        hint="a name or alias, a spec's text or mapping, or a mapping of options: " + ", ".join(_OPTIONS),
    )
