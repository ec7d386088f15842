"""What all hosts of a cluster share: cluster-wide settings and machine classes, checked before they are written.

Only settings that decide which packages a spec gets are shared (`is_cluster_wide`). No value may hold a credential:
whoever reads the tree would have it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from envmgr.errors import UsageError
from envmgr.settings import kinds, machine
from envmgr.settings.redact import redact
from envmgr.settings.schema import BY_KEY
from envmgr.settings.sources import CLUSTER, Source, misfit

_PACKAGE = re.compile(r"__[a-z][a-z0-9_]*")
_VERSION = re.compile(r"[0-9][A-Za-z0-9._+!]*")


def merged_settings(settings: Mapping[str, object], changes: Mapping[str, object | None]) -> dict[str, object]:
    """Return the settings with changes; ``None`` takes one away. Raises `UsageError`."""
    merged = {key: value for key, value in settings.items() if key not in changes}
    merged.update({key: _setting(key, value) for key, value in changes.items() if value is not None})
    for key in changes:
        _entry(key)
    return dict(sorted(merged.items()))


def merged_classes(
    classes: Mapping[str, Mapping[str, str]], changes: Mapping[str, Mapping[str, str] | None]
) -> dict[str, Mapping[str, str]]:
    """Return the classes with changes; ``None``, or one without packages, takes one away. Raises `UsageError`."""
    merged = {name: packages for name, packages in classes.items() if name not in changes}
    merged.update({checked_class(name): _packages(name, packages) for name, packages in changes.items() if packages})
    return dict(sorted(merged.items()))


def _entry(key: str) -> None:
    entry = BY_KEY.get(key)
    if entry is None:
        raise UsageError(f"there is no setting {key!r}", hint="envmgr settings lists them", key=key)
    if not entry.is_cluster_wide:
        raise UsageError(
            f"the setting {key} is each host's own affair; shared are those that decide on the packages",
            hint="set it in the settings file of the host",
            key=key,
        )


def _setting(key: str, value: object) -> object:
    """Return a value as it stands in a settings file, read by its kind; text may be as in a variable."""
    _entry(key)
    entry = BY_KEY[key]
    try:
        found = _read(entry.kind, value)
    except ValueError as error:
        raise misfit(entry, Source(CLUSTER, key), str(error)) from None
    plain = _plain(value if found is None else found)  # "all" is read as None
    if any(redact(text) != text for text in _texts(plain)):
        raise UsageError(
            f"the value of {key} holds a credential, which everybody who reads the cluster's tree would see",
            hint="credentials belong in each host's own settings, keyed by channel",
            key=key,
        )
    return plain


def _read(kind: kinds.Kind[object], value: object) -> object:
    try:
        return kind.from_toml(value)
    except ValueError:
        if not isinstance(value, str):
            raise
        return kind.from_text(value)


def _plain(value: object) -> object:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = [*value, *value.values()]
    return [text for item in value for text in _texts(item)] if isinstance(value, list) else []


def checked_class(name: str) -> str:
    """Return the name of a machine class; raises `UsageError`."""
    try:
        kinds.MACHINE_CLASS.from_text(name)
    except ValueError:
        raise UsageError(f"{name!r} is not {kinds.MACHINE_CLASS.name}") from None
    subdir = name.partition("+")[0]
    if subdir not in machine.SUBDIRS or subdir == "noarch":
        raise UsageError(f"{name!r} is no machine class: {subdir!r} is no subdir", hint="such as linux-64+cuda12")
    return name


def _packages(name: str, packages: Mapping[str, str]) -> Mapping[str, str]:
    read = kinds.VIRTUAL_PACKAGES.from_toml(dict(packages))
    for package, version in read.items():
        if not _PACKAGE.fullmatch(package):
            raise UsageError(f"class {name}: {package!r} is no virtual package", hint="such as __glibc or __cuda")
        if version and not _VERSION.fullmatch(version):
            raise UsageError(
                f"class {name}: {version!r} is no version of {package}",
                hint="such as 2.28; an empty one: machines of this class have none",
            )
    return dict(sorted(read.items()))
