"""What is said when an archive cannot be had, kept or unpacked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from envmgr import fsio
from envmgr.errors import BuildFailed, Corrupt, EnvmgrError, NoSpace, Offline
from envmgr.lockfile import strip_credentials

if TYPE_CHECKING:
    from envmgr.backends.transfers import Sink
    from envmgr.model import LockedPackage

_SHOWN = 5


def offline(missing: Sequence[str]) -> Offline:
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    return Offline(
        f"offline mode is on, and {', '.join(missing[:_SHOWN])}{more} would have to be downloaded",
        hint="the setting offline turns it off; or build once on a host that shares this cache",
        packages=list(missing),
    )


def mismatch(package: LockedPackage, sink: Sink) -> Corrupt:
    kind = "sha256" if package.sha256 else "md5"
    expected = package.sha256 or package.md5 or ""
    found = sink.sha256 if package.sha256 else sink.md5
    url = strip_credentials(package.url)
    return Corrupt(
        f"{package.name} {package.version} from {url} is not what it must be: its {kind} is {found}, not {expected}"
        f" ({sink.size_bytes} bytes)",
        hint="nothing of it was kept. The channel's file and its index (or the lockfile) disagree, or a proxy or mirror"
        " changed it; where the channel replaced the package, `envmgr relock` takes the new one",
        package=package.name,
        url=url,
        expected=expected,
        found=found,
    )


def unpacking_failed(error: Exception, package: LockedPackage) -> EnvmgrError:
    if isinstance(error, OSError) and error.errno in fsio.OUT_OF_SPACE:
        return of_disk(error, f"cannot unpack {package.name}")
    if "os error 28" in str(error) or "No space left" in str(error):
        return NoSpace(f"cannot unpack {package.name}: no space left", hint="`envmgr gc` frees what is not in use")
    return Corrupt(
        f"{package.name} {package.version} from {strip_credentials(package.url)} has the right hash but cannot be"
        f" unpacked: {error}",
        hint="the channel's package itself is broken; choose another build of it",
        package=package.name,
    )


def of_disk(error: OSError, doing: str) -> EnvmgrError:
    if error.errno in fsio.OUT_OF_SPACE:
        return NoSpace(f"{doing}: {error.strerror}", hint="`envmgr gc` frees what no environment uses")
    return BuildFailed(f"{doing}: {error}")
