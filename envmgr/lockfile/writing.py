"""Writes a conda-lock.yml (version 1) through conda-lock's own models; the one place that imports ``conda_lock``.

The models check what is written by conda-lock's rules (a conda package must have an md5), and give the document that
conda-lock itself would write; the text is made with libyaml, which is ten times as fast.

Facts of our own are in ``metadata.custom_metadata``, a mapping of text to text that conda-lock reads and keeps:

=========================== =======================================================================================
``envmgr-format``           ``1``
``envmgr-virtual-packages`` JSON list of [name, requirement]: what the packages require of a machine
``envmgr-not-reproducible`` JSON list of names of pip packages that are built from source at each installation
``envmgr-built-wheels``     JSON list of [name, file name, sha256]: wheels built from sources when it was solved; the
                            package itself is listed with its sources, which conda-lock installs; only if there are any
``envmgr-…``                what the caller adds (the machine class)
=========================== =======================================================================================

Nothing that differs between two runs is written (no time, no user, no git commit), so equal packages give equal bytes.
``content_hash``, which conda-lock uses to see whether its sources changed, is our digest of the packages.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence

import yaml

from envmgr.errors import BuildFailed
from envmgr.lockfile.digests import canonical_name, digest
from envmgr.lockfile.reading import BUILT_WHEELS_KEY, METADATA_PREFIX, NOT_REPRODUCIBLE_KEY, VIRTUAL_PACKAGES_KEY
from envmgr.lockfile.urls import strip_credentials
from envmgr.model import BuiltWheel, LockedPackage

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the conda that conda-lock carries announces its own removals when imported
    from conda_lock.lockfile.v1.models import HashModel, LockMeta  # type: ignore[import-untyped]
    from conda_lock.lockfile.v2prelim.models import LockedDependency  # type: ignore[import-untyped]
    from conda_lock.lockfile.v2prelim.models import Lockfile as CondaLockfile
    from conda_lock.models.channel import Channel  # type: ignore[import-untyped]

_HEADER = """\
# The exact packages of an environment, in conda-lock's format (conda-lock.yml, version 1). Written by envmgr; do not
# edit. "conda-lock render" and "conda-lock install" read it.
"""
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_VARIABLE = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?")


def write(
    packages: Sequence[LockedPackage],
    *,
    subdir: str,
    channels: Sequence[str],
    virtual_packages: Sequence[tuple[str, str]],
    not_reproducible: Sequence[str],
    built_wheels: Sequence[BuiltWheel] = (),
    metadata: Mapping[str, str],
) -> str:
    """Return the text; `metadata` is added to the custom metadata, each key beginning with ``envmgr-``.

    Raises `BuildFailed` naming the packages that conda-lock's format cannot hold.
    """
    without_md5 = sorted(package.name for package in packages if package.manager == "conda" and not package.md5)
    if without_md5:
        raise BuildFailed(
            f"conda-lock's format needs an md5 of every conda package; missing for: {', '.join(without_md5)}",
            hint="index the channel again, or compute it from the downloaded archive",
        )
    custom = {
        "envmgr-format": "1",
        VIRTUAL_PACKAGES_KEY: _json(sorted({tuple(pair) for pair in virtual_packages})),
        NOT_REPRODUCIBLE_KEY: _json(sorted(set(not_reproducible))),
        **metadata,
    }
    if built_wheels:
        custom[BUILT_WHEELS_KEY] = _json(sorted((it.name, it.file_name, it.sha256) for it in built_wheels))
    foreign = [key for key in custom if not key.startswith(METADATA_PREFIX)]
    if foreign:
        raise ValueError(f"a key of the custom metadata begins with {METADATA_PREFIX!r}: {foreign}")
    urls = list(dict.fromkeys(strip_credentials(url) for url in channels))
    content = CondaLockfile(
        package=[_dependency(package, subdir) for package in sorted(packages, key=_order)],
        metadata=LockMeta(
            content_hash={subdir: digest(packages, built_wheels)},
            channels=[Channel(url=url, used_env_vars=tuple(sorted(set(_VARIABLE.findall(url))))) for url in urls],
            platforms=[subdir],
            sources=["environment.yml"],
            custom_metadata=dict(sorted(custom.items())),
        ),
    )
    document = content.to_v1().dict_for_output()
    body = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return _HEADER + str(body)


def _order(package: LockedPackage) -> tuple[str, str]:
    return package.manager, canonical_name(package)


def _dependency(package: LockedPackage, subdir: str) -> LockedDependency:
    return LockedDependency(
        name=package.name,
        version=package.version,
        manager=package.manager,
        platform=subdir,
        dependencies=dict(sorted(package.dependencies)),
        url=strip_credentials(package.url),
        hash=HashModel(md5=package.md5, sha256=package.sha256),
        build=package.build,
        categories={"main"},
    )


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
