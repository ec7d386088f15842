"""`envmgr.ensure` and `Environment` on a real environment from a real channel."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import QUICKSTART

import envmgr
import envmgr.aio
from envmgr import wiring

pytestmark = [pytest.mark.slow, pytest.mark.main_job]

SMALL = "dependencies:\n  - rich\n"


def test_builds_once_and_then_only_leases(store: Path) -> None:
    """The first ensure builds, the second finds the same build; both are leased until closed."""
    with envmgr.ensure(SMALL, root=store) as first:
        assert first.built
        with envmgr.ensure(SMALL, root=store) as second:
            assert not second.built
            assert second.prefix == first.prefix
            assert second.name == envmgr.name(SMALL)


def test_program_runs_inside_and_holds_the_lease(quickstart: envmgr.Environment) -> None:
    """A child started as the README shows sees the environment's packages, and holds the lease on its own."""
    assert quickstart.python is not None
    program = (
        "import json, os, sys, numpy, requests, rich;"
        "print(json.dumps([sys.prefix, os.environ['CONDA_PREFIX'], os.fstat(int(sys.argv[1])).st_ino]))"
    )
    child = subprocess.run(
        [quickstart.python, "-c", program, str(quickstart.fileno())],
        env=quickstart.environ(os.environ),
        pass_fds=[quickstart.fileno()],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    inode = os.fstat(quickstart.fileno()).st_ino
    assert child.stdout.strip() == f'["{quickstart.prefix}", "{quickstart.prefix}", {inode}]'


def test_a_child_outlives_the_caller_and_keeps_the_build(store: Path) -> None:
    """After the caller closed its lease, a child that inherited it still keeps remove from taking the build."""
    manager = wiring.manager(str(store))
    with envmgr.ensure(SMALL, root=store) as environment:
        name = environment.name
        child = environment.popen(["cat"], stdin=subprocess.PIPE)
    try:
        with pytest.raises(envmgr.EnvironmentInUse) as refused:
            manager.remove(name)
        assert child.pid in {user.pid for user in refused.value.users}
    finally:
        assert child.stdin is not None
        child.stdin.close()
        child.wait()
    assert manager.remove(name).is_deleted


def test_run_searches_the_environments_own_programs(quickstart: envmgr.Environment) -> None:
    """`run` finds `python` in the environment, passes exit statuses on and takes `env` as the base of the variables."""
    done = quickstart.run(
        ["python", "-c", "import os, sys; print(sys.prefix, os.environ['MARK']); sys.exit(3)"],
        env={"MARK": "base"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 3
    assert done.stdout.split() == [str(quickstart.prefix), "base"]


def test_changes_activation_and_environ_say_the_same(quickstart: envmgr.Environment) -> None:
    """The variables from `environ`, from `environ_changes` and from evaluating `activation` are the same."""
    base = {"PATH": "/usr/bin:/bin", "HOME": "/"}
    full = quickstart.environ(base)
    changed = {**base, **{key: value for key, value in quickstart.environ_changes(base).items() if value is not None}}
    shell = subprocess.run(
        ["sh", "-c", f"{quickstart.activation()}\nenv -0"], env=base, stdout=subprocess.PIPE, check=True
    )
    evaluated = dict(pair.split("=", 1) for pair in shell.stdout.decode().split("\0") if pair)
    assert full == changed
    assert full["PATH"].split(":")[0] == f"{quickstart.prefix}/bin"
    assert {key: evaluated.get(key) for key in full} == full


def test_words_are_told_apart(ready_store: Path, tmp_path: Path) -> None:
    """A bare word is a name or an alias, never a file; a path, a text and a mapping are specs."""
    name = envmgr.name(QUICKSTART)
    for word in (name, "quickstart", QUICKSTART, str(QUICKSTART), QUICKSTART.read_text()):
        with envmgr.ensure(word, root=ready_store, create=False) as environment:
            assert environment.name == name
    mapping = {"dependencies": ["python", "numpy", "requests", "rich"]}
    with envmgr.ensure(mapping, root=ready_store, create=False) as environment:
        assert environment.name == name
    (tmp_path / "environment").write_text(SMALL)
    with pytest.raises(envmgr.EnvironmentNotFound) as missing:
        envmgr.ensure("environment", root=ready_store)
    assert missing.value.hint is not None
    assert "./environment" in missing.value.hint


def test_create_false_only_looks(store: Path) -> None:
    """With ``create=False`` a spec that is not there is `EnvironmentNotFound`, and no store is made for it."""
    with pytest.raises(envmgr.EnvironmentNotFound):
        envmgr.ensure(SMALL, root=store, create=False)
    assert [entry.name for entry in store.iterdir()] == ["settings.toml"]


def test_invalid_spec_names_its_problems() -> None:
    """A malformed requirement is `InvalidSpec` with line and column before anything else happens."""
    with pytest.raises(envmgr.InvalidSpec) as invalid:
        envmgr.ensure("dependencies:\n  - pandas=>=1.0\n", root="/nonexistent")
    assert [(problem.line, problem.column) for problem in invalid.value.problems] == [(2, 5)]


def test_unsatisfiable_says_why(store: Path) -> None:
    """What no channel has is `Unsatisfiable` with the solver's explanation, and leaves no build behind."""
    with pytest.raises(envmgr.Unsatisfiable) as refused:
        envmgr.ensure("dependencies:\n  - no-such-package-anywhere\n", root=store)
    assert "no-such-package-anywhere" in refused.value.message
    assert list((store / "builds").iterdir()) == []


def test_asyncio_face_builds_and_finds(store: Path) -> None:
    """`envmgr.aio.ensure` builds off the loop's thread and returns a ready environment without leaving it."""

    async def main() -> tuple[bool, bool]:
        with await envmgr.aio.ensure(SMALL, root=store) as first, await envmgr.aio.ensure(SMALL, root=store) as second:
            return first.built, second.built

    assert asyncio.run(main()) == (True, False)


def test_cancelled_task_leaves_nothing(store: Path) -> None:
    """Cancelling the task during its build ends the builder, leaves no build behind, and a later call succeeds."""

    async def main() -> None:
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(
            envmgr.aio.ensure(SMALL, root=store, on_progress=lambda _: loop.call_soon_threadsafe(begun.set))
        )
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert list((store / "builds").iterdir()) == []
    envmgr.ensure(SMALL, root=store).close()


def test_reader_of_another_user_may_use_but_not_create(ready_store: Path) -> None:
    """Another uid leases and runs a ready environment; creating is refused with the owner and a hint."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    program = (
        "import os, pathlib, subprocess, sys, envmgr, envmgr.spec, envmgr.wiring\n"  # while they can be read
        "os.setgid(65534); os.setuid(65534)\n"
        "env = envmgr.ensure('quickstart', root=sys.argv[1])\n"
        "env.run([env.python, '-c', 'import numpy; print(numpy.__name__)'], check=True)\n"
        "try: envmgr.ensure('dependencies: [rich]\\n', root=sys.argv[1])\n"
        "except envmgr.PermissionRefused as error: print(error.code)\n"
    )
    for directory in (ready_store, *ready_store.parents):
        if directory.stat().st_uid == os.geteuid() and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o055)
    run = subprocess.run(
        [sys.executable, "-c", program, ready_store], capture_output=True, text=True, check=False, cwd="/"
    )
    assert run.stdout.split() == ["numpy", "permission"], run.stderr
