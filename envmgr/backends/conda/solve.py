"""From requirements to exact packages by the site's conda: a dry run of ``create``, whose answer is read.

The dry run has a package cache of its own, ``<package_cache>/conda``, in which only repodata ever lies: so no package
is there yet, and all of them stand in the answer's ``FETCH`` with URL and hashes. One conda at a time uses it
(`envmgr.backends.conda.exclusive`).

What rattler's solver can and conda cannot: ``exclude_newer`` is refused; of virtual packages conda can be told of six
(``CONDA_OVERRIDE_…``), the others are as it finds them itself.

The answer is not believed beyond the request: a package from another channel, or from another one than
``channel::package`` asks for, is an error. Its bytes are fetched and hashed by envmgr as always.

Source: conda's documentation of ``create --dry-run --json`` and of virtual packages; mamba issues 207 and 2346.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from envmgr.backends.conda import exclusive
from envmgr.backends.rattler import solve as solving
from envmgr.errors import BuildFailed, UsageError
from envmgr.events import Event, Reporter
from envmgr.lockfile import strip_credentials
from envmgr.lockfile.comparison import conda_name
from envmgr.model import LockedPackage, VirtualPackage
from envmgr.settings.redact import redact

if TYPE_CHECKING:
    from envmgr.backends.conda.command import Caller
    from envmgr.ports import Deadline
    from envmgr.wire.pipe import BuildRequest

_OVERRIDABLE = ("archspec", "cuda", "glibc", "linux", "osx", "win")
_UNTOLD = frozenset({"__unix", *(f"__{name}" for name in _OVERRIDABLE)})


def solve(
    caller: Caller, request: BuildRequest, packages: Iterable[VirtualPackage], *, deadline: Deadline, report: Reporter
) -> solving.Solution:
    """Find the packages of the request's conda part on a machine with the virtual `packages`.

    Raises what `envmgr.backends.rattler.solve.solve` raises, and `UsageError` for what conda cannot do.
    """
    if request.exclude_newer is not None:
        raise UsageError(
            "conda cannot leave out packages by their time",
            hint="exclude_newer and `--exclude-newer` need the setting backend = rattler",
            setting="exclude_newer",
        )
    names = dict(zip((channel.name for channel in request.channels), caller.names(), strict=True))
    specs = [_renamed(text, names) for text in request.conda if not text.lstrip().startswith("__")]
    if not specs:
        return solving.solution((), request.conda, {})
    cache = Path(request.package_cache) / "conda"
    arguments = ["create", "--prefix", str(Path(request.build_dir) / "tmp" / "never-made"), "--dry-run", "--json"]
    arguments += ["--quiet", "--yes", "--no-pin", *(["--no-py-pin"] if caller.conda.is_libmamba else [])]
    arguments += ["--no-default-packages"] if not caller.conda.is_libmamba else []
    arguments += ["--override-channels", *(word for name in names.values() for word in ("--channel", name)), *specs]
    with exclusive.held([cache], deadline=deadline, report=report) as locks:
        answer = caller.ask(
            arguments,
            cache=cache,
            phase="solve",
            doing=f"cannot solve for {request.subdir}",
            environ=_overrides(packages, report),
            locks=locks,
        )
    records = [{**record, "url": caller.original(_url(record))} for record in _records(answer)]
    _check_channels(records, request)
    sizes = {_url(record): size for record in records if isinstance(size := record.get("size"), int)}
    return solving.solution(map(_locked, records), request.conda, sizes)


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """Return a MatchSpec whose channel, if it names one, is called as conda knows it."""
    channel, found, rest = text.partition("::")
    return f"{names.get(channel, channel)}::{rest}" if found else text


def _overrides(packages: Iterable[VirtualPackage], report: Reporter) -> dict[str, str]:
    """Return the variables that make conda see these virtual packages; an empty one: the machine has none."""
    found = {package.name: package.build if package.name == "__archspec" else package.version for package in packages}
    if untold := sorted(found.keys() - _UNTOLD):
        report(Event("log", "solve", f"conda cannot be told of {', '.join(untold)}"))
    return {f"CONDA_OVERRIDE_{name.upper()}": found.get(f"__{name}", "") for name in _OVERRIDABLE}


def _records(answer: Mapping[str, object]) -> list[Mapping[str, object]]:
    """Return the records of all packages that would be linked; conda gives them whole where it would fetch them."""
    actions = answer.get("actions")
    if not isinstance(actions, dict):
        raise BuildFailed(
            "the site's conda answers without `actions`", hint="setting backend = rattler does without it"
        )
    whole = {str(one.get("name")): one for key in ("LINK", "FETCH") for one in _objects(actions.get(key)) if _url(one)}
    names = {str(one.get("name")) for one in _objects(actions.get("LINK"))} | whole.keys()
    if lacking := sorted(names - whole.keys()):
        raise BuildFailed(f"the site's conda does not tell where it has {', '.join(lacking)} from")
    return [whole[name] for name in sorted(names) if not name.startswith("__")]


def _objects(value: object) -> Sequence[Mapping[str, object]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else ()


def _url(record: Mapping[str, object]) -> str:
    return str(record.get("url") or "")


def _check_channels(records: Iterable[Mapping[str, object]], request: BuildRequest) -> None:
    urls = {
        channel.name: tuple(f"{strip_credentials(url).rstrip('/')}/" for url in channel.urls)
        for channel in request.channels
    }
    wanted = {conda_name(text): text.partition("::")[0] for text in request.conda if "::" in text}
    every = tuple(url for some in urls.values() for url in some)
    for record in records:
        name = str(record.get("name"))
        allowed = urls.get(wanted.get(name, ""), every)
        if not _url(record).startswith(allowed):
            raise BuildFailed(
                f"the site's conda takes {name} from {redact(_url(record))}, which is none of the channels asked for",
                hint="its .condarc redirects a channel; setting mirrors or backend = rattler",
            )


def _locked(record: Mapping[str, object]) -> LockedPackage:
    def text(key: str) -> str | None:
        return str(record[key]) if record.get(key) else None

    depends = record.get("depends")
    return LockedPackage(
        manager="conda",
        name=str(record["name"]).lower(),
        version=str(record.get("version")),
        url=_url(record),
        sha256=text("sha256"),
        md5=text("md5"),
        build=text("build_string") or text("build"),
        subdir=text("subdir") or _url(record).rpartition("/")[0].rpartition("/")[2],
        dependencies=solving.dependencies([str(one) for one in depends] if isinstance(depends, list) else ()),
    )
