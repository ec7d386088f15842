"""What is changed in an interpreter that is copied for the service, byte by byte."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from envmgr.service import interpreter


def test_search_path_of_libraries() -> None:
    """A search path that names the old directory names the one beside the program; no byte moves."""
    libraries = Path("/home/someone/pythons/3.11/lib")
    program = b"\x7fELF\0/home/someone/pythons/3.11/lib\0/x:%s:/y\0%s/python3.11\0" % ((bytes(libraries),) * 2)
    changed = interpreter._relocated(program, libraries)
    beside = b"$ORIGIN/../lib".ljust(len(bytes(libraries)), b"/")
    assert changed == b"\x7fELF\0%s\0/x:%s:/y\0%s/python3.11\0" % (beside, beside, bytes(libraries))
    assert len(changed) == len(program)


def test_short_directories_stay() -> None:
    """Where the new path has no room, nothing is changed; the trial of the installation tells whether that is well."""
    assert interpreter._relocated(b"\0/opt/p/lib\0", Path("/opt/p/lib")) == b"\0/opt/p/lib\0"


def test_who_can_start_it(tmp_path: Path) -> None:
    """A program that the unit hides, or that lies where others may not go, is not for the service."""
    assert interpreter.is_startable_by_others(Path("/bin/sh").resolve())
    assert not interpreter.is_startable_by_others(Path("/home/someone/bin/python"))
    program = tmp_path / "python"
    program.touch(0o755)
    tmp_path.chmod(0o700)
    assert not interpreter.is_startable_by_others(program)


def test_what_others_can_change_is_not_started(tmp_path: Path) -> None:
    """What belongs to a user, or is everybody's to write, is not what the service runs in place."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to give files away")
    program = tmp_path / "python"
    program.touch()
    program.chmod(0o755)
    assert interpreter.is_open_and_roots(program)
    program.chmod(0o757)
    assert not interpreter.is_open_and_roots(program)
    program.chmod(0o755)
    os.chown(program, 65534, 65534)
    assert not interpreter.is_open_and_roots(program)
