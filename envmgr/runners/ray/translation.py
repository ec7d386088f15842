"""What a driver hands to Ray: the field ``envmgr``, written by hand or made from ``conda``, ``pip`` and ``uv``.

`hook` is for programs that know nothing of envmgr. What it translates:

* ``conda``: a mapping, or a file. Without a python of its own it gets the driver's minor version, as Ray does it.
* ``pip``, ``uv``: a list, a file of requirements, or a mapping with ``packages``: python of the driver's minor version
  and the list. ``ray`` without a version gets the driver's. ``pip_check`` is dropped (every build is checked), and so
  is ``pip_version``, ``uv_version`` (neither pip nor that uv is used).

What is left to Ray, with a warning: the name or directory of an environment that conda has (nobody says how it was
made), and install options (what they find differs from host to host). The cluster's own packages stay importable
behind the environment's, as they are with Ray's ``pip``.

A node without the plugin ignores the field ``envmgr`` silently, and would run the job in a wrong Python. So beside it
stands `TRIPWIRE`, a value of another field that Ray itself refuses, and that the plugin takes away before Ray looks.
It costs nothing where the plugin is, and nothing has to run in the wrong Python to find out.
"""

from __future__ import annotations

import importlib.metadata
import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envmgr import client
from envmgr.settings.redact import redact

if TYPE_CHECKING:
    from envmgr.client import SpecLike
    from envmgr.model import Spec

TRIPWIRE_FIELD = "_nsight"
"""A profiler's: of a string that is not 'default', Ray's agent says that it is refused, and with it the runtime_env."""

TRIPWIRE = (
    "the envmgr plugin is not registered on this node, so the environment that was asked for cannot be had here: start "
    'its raylet with RAY_RUNTIME_ENV_PLUGINS=\'[{"class": "envmgr.runners.ray.EnvmgrPlugin"}]\' (nsight has nothing '
    "to do with it, its field is only how this is noticed)"
)

_FOREIGN = ("conda", "pip", "uv")
_log = logging.getLogger(__name__)


def runtime_env(
    spec: SpecLike, *, timeout_s: float | None = None, overlay: bool | None = None, **fields: Any
) -> dict[str, Any]:
    """Return the runtime_env of a job, a task or an actor that runs in the environment of `spec`.

    `spec` is what `envmgr.ensure` takes; a file is read here, on the driver (one with ``-r`` is refused: only its own
    text crosses the cluster). `fields` are Ray's other ones (``env_vars``, ``working_dir``, ``config``).
    Raises `InvalidSpec`.
    """
    value: dict[str, Any] = {}
    if isinstance(spec, str) and not client.is_text(spec) and not client.is_file(spec):
        value["name"] = spec
    else:
        value["spec"] = _document(spec)
    if timeout_s is not None:
        value["timeout_s"] = timeout_s
    if overlay is not None:
        value["overlay"] = overlay
    return _armed({**fields, "envmgr": value})


def hook(runtime_env: Mapping[str, Any] | None) -> dict[str, Any]:
    """Translate a job's runtime_env; Ray calls this in ``ray.init``, where ``RAY_RUNTIME_ENV_HOOK`` names it.

    The value of ``envmgr`` stays as it is. Raises `InvalidSpec` where ``conda`` or ``pip`` say what cannot be, and
    `OSError` where their file cannot be read: before anything is sent to the cluster.
    """
    found = dict(runtime_env or {})
    asked = [field for field in _FOREIGN if found.get(field) is not None]
    if found.get("envmgr") is not None:
        return _armed(found)
    if len(asked) != 1:  # nothing, or what Ray itself refuses
        return found
    field = asked[0]
    why = _untranslatable(field, found[field])
    if why is not None:
        _log.warning("runtime_env[%r] is left to Ray: %s", field, why)
        return found
    value = found.pop(field)
    document = _of_conda(value) if field == "conda" else _of_pip(value)
    for left in ("_ray_commit", "_inject_current_ray"):  # of Ray's own handling of the field
        found.pop(left, None)
    return _armed({**found, "envmgr": {"spec": document, "overlay": True}})


def _armed(fields: dict[str, Any]) -> dict[str, Any]:
    return fields if fields.get(TRIPWIRE_FIELD) else {**fields, TRIPWIRE_FIELD: TRIPWIRE}


def _document(spec: SpecLike) -> str | dict[str, Any]:
    """Return what crosses the cluster for a spec; the problems that it has are told on the driver, before it does."""
    return _sendable(_text(spec))


def _sendable(document: str | dict[str, Any]) -> str | dict[str, Any]:
    """Check a document; return it without credentials in URLs: the cluster shows what it is sent, and none is used."""
    found = client.parse(document, *client.read(document))
    for warning in found.warnings:
        _log.warning("runtime_env: %s", warning.message)
    has_any = found.source_text != document if isinstance(document, str) else redact(str(document)) != str(document)
    return found.source_text if has_any else document


def _text(spec: SpecLike) -> str | dict[str, Any]:
    text, _ = client.read(spec)
    if text is None:
        return dict(spec)  # type: ignore[arg-type]  # a mapping, where there is no text
    document = text.decode("utf-8-sig")
    return document if client.is_text(document) else f"{document}\n"


def _untranslatable(field: str, value: object) -> str | None:
    """Say why a field is left to Ray, or ``None``."""
    if field == "conda":
        if isinstance(value, str) and not value.endswith((".yml", ".yaml")):
            return f"{value!r} is an environment of conda's own"
        if isinstance(value, str) and not _has_python(client.parse(value, *client.read(value))):
            return f"{value} names no python, which has to be of the cluster's version"
    elif isinstance(value, Mapping):
        options = [key for key in value if key.endswith("install_options") and value[key]]
        if options:
            return f"{options[0]} cannot be honoured on every host alike (an index can: --index-url in a pip section)"
    return None


def _has_python(spec: Spec) -> bool:
    return any(re.match(r"(.*::)?python(?![\w.-])", found.match_spec) for found in spec.conda)


def _of_conda(value: Any) -> str | dict[str, Any]:
    if isinstance(value, str):
        return _document(Path(value))
    document = {**value, "dependencies": list(value.get("dependencies") or [])}
    if not _has_python(client.parse(document, None, "<conda>")):
        document["dependencies"].append(_python())
    return _sendable(document)


def _of_pip(value: Any) -> str | dict[str, Any]:
    packages = value["packages"] if isinstance(value, Mapping) else value
    if isinstance(packages, str):
        lines = Path(packages).read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
        packages = [found for line in lines if (found := re.sub(r"(^|\s+)#.*", "", line).strip())]
    document = {"dependencies": [_python(), "pip", {"pip": [_pinned(package) for package in packages]}]}
    return _sendable(document)


def _python() -> str:
    return f"python={sys.version_info.major}.{sys.version_info.minor}"


def _pinned(package: str) -> str:
    """Name the driver's Ray where a list names any: of Ray's parts, one cluster has one version."""
    if re.fullmatch(r"ray(\[[^\]]*\])?", package.replace(" ", "")):
        return f"{package}=={importlib.metadata.version('ray')}"
    return package
