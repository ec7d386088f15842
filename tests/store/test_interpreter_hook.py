"""An interpreter that is started by the stable path leases its own build and stays in it; and is never disturbed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes.worlds import begin, name_of

from envmgr import ready
from envmgr.backends import interpreter_hook
from envmgr.names import BuildId
from envmgr.store import leases, publication, sweep, usage
from envmgr.store.layout import Layout

NAME = name_of("numpy")
VERSIONS = [f"3.{minor}" for minor in range(6, 14)]


def interpreter(version: str) -> Path:
    """Return an interpreter of this machine that was built to stand anywhere, or skip."""
    places = [Path(sys.base_prefix), *sorted(Path.home().glob(f".pyenv/versions/{version}.*"))]
    for place in places:
        if (place / "bin" / f"python{version}").exists() and not str(place).startswith("/usr"):
            return place
    pytest.skip(f"needs a Python {version} that is not the distribution's")


def make_prefix(prefix: Path, source: Path, version: str) -> None:
    """Make a prefix with a real interpreter: its own executable, the library's modules as links."""
    (prefix / "bin").mkdir(parents=True)
    shutil.copy2((source / "bin" / f"python{version}").resolve(), prefix / "bin" / "python")
    library = prefix / "lib" / f"python{version}"
    library.mkdir(parents=True)
    for entry in (source / "lib" / f"python{version}").iterdir():
        if entry.name != "site-packages":
            if entry.is_file() and entry.name == "os.py":
                shutil.copy2(entry, library / entry.name)
            else:
                (library / entry.name).symlink_to(entry)
    (library / "site-packages").mkdir()
    for name in ("early", "late"):
        (library / "site-packages" / f"{name}.py").write_text(f"where = __file__\nwho = {str(prefix)!r}\n", "utf-8")
    interpreter_hook.install(prefix)


def build(layout: Layout, source: Path, version: str) -> BuildId:
    lease = begin(layout, "numpy")
    shutil.rmtree(lease.prefix)
    make_prefix(Path(lease.prefix), source, version)
    lease.close()
    return lease.build_id


LOOK = """
import sys
seen = sys.argv[1]
import early
bad = ["sys." + k for k, v in vars(sys).items() if isinstance(v, str) and v.startswith(seen) and k != "orig_argv"]
bad += ["sys.path: " + p for p in sys.path if p.startswith(seen)]
bad += [m.__name__ for m in list(sys.modules.values()) if str(getattr(m, "__file__", "")).startswith(seen)]
print(bad)
print(sys.prefix)
print(early.who)
sys.stdout.flush()
sys.stdin.readline()
import late
print(late.who)
print(late.where)
"""


@contextmanager
def running(layout: Layout, *options: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    path = layout.publication(NAME)
    with subprocess.Popen(
        [path / "bin" / "python", *options, "-c", LOOK, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={"PATH": os.defpath, **variables},
    ) as process:  # fmt: skip
        yield process


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


def end(process: subprocess.Popen[str]) -> list[str]:
    out, errors = process.communicate("go on\n")
    assert errors == ""
    assert process.returncode == 0
    return out.split()


@pytest.mark.parametrize("version", VERSIONS)
def test_an_interpreter_stays_in_its_build(layout: Layout, version: str) -> None:
    """It holds a lease of its own, names the real paths, and imports from its build after a republication."""
    source = interpreter(version)
    first = build(layout, source, version)
    assert publication.publish(layout, NAME, first)
    paths = layout.build(first)
    with running(layout) as process:
        bad, prefix, early = lines(process, 3)
        assert bad == "[]"
        assert prefix == early == str(paths.prefix(NAME))
        assert [user.pid for user in usage.lock_holders([paths.lease])[paths.lease]] == [process.pid]
        second = build(layout, source, version)
        assert publication.republish(layout, NAME, first, second)
        assert not sweep.discard(layout, first)
        assert end(process) == [str(paths.prefix(NAME)), str(paths.prefix(NAME)) + _site(version, "late.py")]
    assert sweep.discard(layout, first)


def test_another_environments_packages_come_first(layout: Layout, tmp_path: Path) -> None:
    """What another environment has on PYTHONPATH, be it a hook, takes no interpreter's own lease away."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    source = interpreter(version)
    other = tmp_path / "builds" / "1" / "envs" / name_of("pandas")
    make_prefix(other, source, version)
    (tmp_path / "builds" / "1" / "lease").touch()
    build_id = build(layout, source, version)
    assert publication.publish(layout, NAME, build_id)
    paths = layout.build(build_id)
    with running(layout, PYTHONPATH=str(other) + _site(version, "")) as process:
        assert lines(process, 3) == ["[]", str(paths.prefix(NAME)), str(other)]
        assert [user.pid for user in usage.lock_holders([paths.lease])[paths.lease]] == [process.pid]
        assert end(process)[0] == str(other)


def _site(version: str, name: str) -> str:
    return f"/lib/python{version}/site-packages/{name}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("lease", ["missing", "held by a remover", "a directory", "not readable"])
def test_an_interpreter_starts_without_its_lease(layout: Layout, version: str, lease: str) -> None:
    """Whatever became of the lease file, the interpreter starts, silently, and imports."""
    build_id = build(layout, interpreter(version), version)
    assert publication.publish(layout, NAME, build_id)
    paths = layout.build(build_id)
    if lease == "held by a remover":
        with leases.exclusive(paths) as is_granted, running(layout) as process:
            assert is_granted
            assert lines(process, 3)[1] == str(paths.prefix(NAME))
            assert end(process)[0] == str(paths.prefix(NAME))
        return
    if lease == "not readable":
        paths.lease.chmod(0)
    else:
        paths.lease.unlink()
        if lease == "a directory":
            paths.lease.mkdir()
    with running(layout) as process:
        lines(process, 3)
        assert end(process)[0] == str(paths.prefix(NAME))


def test_an_interpreter_without_a_lease_is_seen(layout: Layout) -> None:
    """One that was started with -S has no lease; the look into its files keeps its build all the same."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    build_id = build(layout, interpreter(version), version)
    assert publication.publish(layout, NAME, build_id)
    command = [str(layout.publication(NAME) / "bin" / "python"), "-S", "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        lines(process, 1)
        with leases.exclusive(layout.build(build_id)) as is_granted:
            assert is_granted
        assert publication.unpublish(layout, NAME, build_id)
        assert not sweep.discard(layout, build_id)
        assert {user.how for user in usage.processes_inside(layout.build(build_id).directory)} == {"exe"}
        process.communicate("\n")
    assert sweep.discard(layout, build_id)


def test_children_of_an_interpreter(layout: Layout) -> None:
    """A forked child shares its parent's lease; a program that it executes does not get the descriptor."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    build_id = build(layout, interpreter(version), version)
    assert publication.publish(layout, NAME, build_id)
    lease = layout.build(build_id).lease
    work = (
        "import os, subprocess, sys\n"
        "pid = os.fork()\n"
        "if not pid: input(); os._exit(0)\n"
        "other = subprocess.Popen(['cat'], stdin=0, close_fds=False)\n"
        "print(os.getpid(), pid, other.pid, flush=True)\n"
        "os.waitpid(pid, 0); other.wait()\n"
    )
    command = [str(layout.publication(NAME) / "bin" / "python"), "-c", work]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        parent, forked, executed = map(int, lines(process, 1)[0].split())
        holders = {user.pid for user in usage.lock_holders([lease])[lease]}
        assert holders == {parent, forked}
        assert executed not in holders
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.close()
    assert ready.resolve(str(layout.root), NAME) == (NAME, build_id)
