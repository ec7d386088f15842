"""The calls that read what an environment has: list, pack."""

# ruff: noqa: PLC0415 - after site-packages were added

import os

from envmgr.errors import EnvmgrError
from envmgr.runners.condahome.program import Home, add_site_packages, lease_of, say, say_json, target
from envmgr.runners.condahome.words import TARGET, NotAnsweredError, read

_PACK = {
    **TARGET, "-o": "output=", "--output": "output=", "--format": "format=", "-f": "force", "--force": "force",
    "--n-threads": "threads=", "-j": "threads=", "--compress-level": "level=", "--ignore-missing-files": "",
    "--ignore-editable-packages": "",
}  # fmt: skip


def list_packages(home: Home, arguments: "list[str]") -> int:
    """``conda list [-n N | -p P] [--json | --export]``: what the environment's lockfile has."""
    words = read(arguments, {**TARGET, "-e": "export", "--export": "export"})
    if words.rest:
        raise NotAnsweredError(words.rest[0])
    lease = lease_of(home, target(words))
    try:
        add_site_packages()
        from envmgr import lockfile
        from envmgr.settings import machine

        with open(f"{lease.build_dir}/conda-lock.yml", encoding="utf-8") as file:
            packages = lockfile.parse(file.read(), machine.subdir()).packages
    finally:
        lease.close()
    rows = []
    for package in sorted(packages, key=lambda it: it.name):
        channel, _, archive = package.url.rpartition("/")
        stem = archive.removesuffix(".conda").removesuffix(".tar.bz2")
        build = stem.rpartition("-")[2] if package.manager == "conda" else "pypi_0"
        place = os.path.dirname(channel) if package.manager == "conda" else "pypi"
        rows.append((package.name, package.version, build, place))
    if words.is_json:
        return say_json(
            [
                {"name": name, "version": version, "build_string": build, "channel": place, "base_url": place}
                for name, version, build, place in rows
            ]
        )
    if words.has("export"):
        return say("".join(f"{name}={version}={build}\n" for name, version, build, _ in rows))
    lines = "".join(f"{name:<24} {version:<16} {build:<20} {place}\n" for name, version, build, place in rows)
    return say(f"# packages in environment at {lease.path}:\n#\n{lines}")


def pack(home: Home, arguments: "list[str]") -> int:
    """``conda pack [-n N | -p P] [-o FILE] [--format F] [-f]``, as conda-pack's own command; made once and kept.

    Threads and the level of compression are envmgr's choice.
    """
    words = read(arguments, _PACK)
    if words.rest:
        raise NotAnsweredError(words.rest[0])
    lease = lease_of(home, target(words))

    def tell(text: str) -> None:
        if not words.is_json and not words.is_quiet:
            say(f"{text}\n")

    try:
        add_site_packages()
        from pathlib import Path

        from envmgr.interruption import signals_raise
        from envmgr.runners import packing

        archive_format = words.one("format")
        archive_format = None if archive_format == "infer" else archive_format
        output = words.one("output") or f"{words.one('name') or lease.name}.{archive_format or 'tar.gz'}"
        if os.path.lexists(output) and not words.has("force"):
            raise EnvmgrError(f"{output} exists already", hint="-f replaces it")
        with signals_raise():
            packed = packing.pack(lease, Path(output), archive_format=archive_format, say=tell)
    finally:
        lease.close()
    tell(f"{packed.path}: {packed.size_bytes} bytes")
    return 0
