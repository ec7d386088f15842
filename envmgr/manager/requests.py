"""From a spec and the settings to what the builder is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from envmgr.errors import IncompatibleHost
from envmgr.wire.pipe import BuildRequest, Sharing

if TYPE_CHECKING:
    from envmgr.manager.context import Context
    from envmgr.model import Spec
    from envmgr.names import EnvName
    from envmgr.ready import Lease

OnLocked = Callable[[str], None]
"""Gets the text of the complete lockfile."""


@dataclass(frozen=True, slots=True)
class Changes:
    """How one build differs from an ordinary one; `exclude_newer` is an RFC 3339 time."""

    action: Literal["build", "lock"] = "build"
    exclude_newer: str | None = None
    validate_packages: bool = False


ORDINARY = Changes()


def build_request(context: Context, spec: Spec, lease: Lease, lock_text: str | None, changes: Changes) -> BuildRequest:
    """Return the request for one build of `spec` in the leased directory.

    Raises `IncompatibleHost` when the spec names platforms and this host's is not among them.
    """
    settings = context.settings
    if spec.platforms and settings.subdir not in spec.platforms:
        raise IncompatibleHost(
            f"the spec is for {', '.join(spec.platforms)}; this host is {settings.subdir}",
            hint="add the platform to the spec's `platforms`",
        )
    declared = context.coordinator.virtual_packages(settings.machine_class)
    return BuildRequest(
        action=changes.action,
        name=spec.name,
        digest=spec.digest,
        subdir=settings.subdir,
        conda=settings.conda(spec),
        pip=settings.pip(spec),
        channels=settings.channels(spec),
        channel_priority=settings.channel_priority,
        variables=spec.variables,
        lockfile=lock_text,
        build_dir=lease.build_dir,
        prefix=lease.prefix,
        package_cache=str(context.layout.packages),
        uv_cache=str(context.layout.uv_cache),
        machine_class=settings.machine_class,
        network=settings.network(),
        pip_settings=settings.pip_settings(spec),
        virtual_package_overrides=settings.virtual_package_overrides,
        solve_virtual_packages=None if declared is None else tuple(sorted(declared.items())),
        exclude_newer=changes.exclude_newer or settings.exclude_newer,
        allow_link_scripts=settings.allow_link_scripts,
        allow_md5=settings.allow_md5,
        validate_packages=changes.validate_packages,
        nice=settings.builder_nice,
        memory_bytes=settings.builder_memory_bytes,
        max_environment_bytes=settings.max_environment_bytes,
        sharing=_sharing(context, spec.name),
        backend=settings.backend,
        conda_executable=settings.conda_executable,
    )


def _sharing(context: Context, name: EnvName) -> Sharing:
    settings = context.settings
    if not settings.share_archives:
        return Sharing()
    found = context.coordinator.siblings(name)
    solver = found.solver if found.solver != found.own else None
    return Sharing(found.own if found.is_ranked else None, found.others, solver, settings.archives_wait_s)
