"""Everything that compiles is compiled once, for good, without touching bytes that others share."""

from __future__ import annotations

import os
import py_compile
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from package_index import Prefix, make_prefix
from test_installing import INTERPRETERS

from envmgr.backends.bytecode import Compiled, compile_prefix, share
from envmgr.backends.processes import Finished, run
from envmgr.errors import BuildFailed
from envmgr.events import Event


def _module(prefix: Prefix, name: str, text: str = "value = 1\n") -> tuple[Path, Path]:
    path = prefix.site_packages / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    major, minor, _ = prefix.interpreter.version
    return path, path.parent / "__pycache__" / f"{path.stem}.cpython-{major}{minor}.pyc"


def _flags(cached: Path) -> int:
    return int(struct.unpack("<I", cached.read_bytes()[4:8])[0])


def test_byte_code_is_valid_whatever_happens_to_the_source(prefix: Prefix) -> None:
    """Nobody compiles again after the build, even where a copy or a clock changed every time stamp."""
    path, cached = _module(prefix, "package/module")
    assert compile_prefix(prefix.path) == Compiled(files=1, failed=0)
    assert _flags(cached) == 1  # a hash, and nobody is to check it
    path.write_text("value = 'changed'\n")
    code = f"import sys; sys.path.insert(0, {str(path.parent)!r}); import module; print(module.value)"
    assert prefix.run(code) == "1"


def test_what_does_not_compile_is_counted_and_left(prefix: Prefix) -> None:
    """Templates, code for Python 2, odd encodings and directories called ``x.py`` do not fail a build."""
    _module(prefix, "good")
    _module(prefix, "template", "{{ cookiecutter.name }} = (\n")
    _module(prefix, "old", "print 'hello'\n")
    (prefix.site_packages / "encoding.py").write_bytes(b"# coding: latin-9x\n\xff")
    (prefix.site_packages / "nul.py").write_bytes(b"\0")
    (prefix.site_packages / "directory.py").mkdir()
    (prefix.site_packages / "dangling.py").symlink_to("nowhere")
    assert compile_prefix(prefix.path) == Compiled(files=1, failed=4)


def test_valid_byte_code_stays_and_shared_bytes_are_never_overwritten(prefix: Prefix, tmp_path: Path) -> None:
    """What a package brought stays if it fits; if not, a new file replaces it and the shared one is as before."""
    fresh, fresh_cached = _module(prefix, "fresh")
    stale, stale_cached = _module(prefix, "stale")
    for path in (fresh, stale):
        py_compile.compile(str(path), invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP)
    os.utime(stale, (1, 1))
    shared = tmp_path / "shared.pyc"
    os.link(stale_cached, shared)
    before = shared.read_bytes(), fresh_cached.stat().st_ino
    assert compile_prefix(prefix.path) == Compiled(files=1, failed=0)
    assert (shared.read_bytes(), fresh_cached.stat().st_ino) == before
    assert stale_cached.stat().st_ino != shared.stat().st_ino
    assert _flags(stale_cached) == 1


def test_nothing_is_compiled_twice_and_progress_adds_up(prefix: Prefix) -> None:
    """A second run finds nothing to do; events count from nothing to everything."""
    for number in range(120):
        _module(prefix, f"m{number}")
    events: list[Event] = []
    assert compile_prefix(prefix.path, report=events.append).files == 120
    assert {event.kind for event in events} == {"progress"}
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert (events[-1].done, events[-1].total, events[-1].unit) == (120, 120, "files")
    assert compile_prefix(prefix.path) == Compiled(files=0, failed=0)


def test_a_prefix_without_an_interpreter_has_nothing_to_compile(tmp_path: Path) -> None:
    """An environment of tools in other languages is fine."""
    assert compile_prefix(tmp_path) == Compiled(files=0, failed=0)


def test_byte_code_that_cannot_be_written_fails_the_build(prefix: Prefix) -> None:
    """A build never goes on with half of the byte-code as if it were all: here, no file may grow beyond 0 bytes."""
    _module(prefix, "good")

    def limited(command: Sequence[str | os.PathLike[str]], **rest: Any) -> Finished:
        return run(["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *command], **rest)

    with pytest.raises(BuildFailed, match=r"could not be written: .*File too large"):
        compile_prefix(prefix.path, run=limited)


@pytest.mark.slow
@pytest.mark.parametrize("python", INTERPRETERS, ids=lambda path: path.parent.parent.name)
def test_every_interpreter_of_the_machine_is_served(python: Path, tmp_path: Path) -> None:
    """From 3.7 on by hash; 3.6 knows only time stamps, and they are right."""
    prefix = make_prefix(tmp_path / "prefix", str(python))
    _, cached = _module(prefix, "module")
    _module(prefix, "broken", "(")
    assert compile_prefix(prefix.path) == Compiled(files=1, failed=1)
    assert compile_prefix(prefix.path).files == 0
    if prefix.interpreter.version >= (3, 7):
        assert _flags(cached) == 1
    before = cached.stat().st_mtime_ns
    assert prefix.run("import module; print(module.value)") == "1"
    assert cached.stat().st_mtime_ns == before


def test_the_same_source_is_compiled_once(tmp_path: Path) -> None:
    """Byte-code in the cache is linked, not made again; tracebacks and modules name the file's own place."""
    cache = tmp_path / "cache"
    first = make_prefix(tmp_path / "one")
    _, first_cached = _module(first, "package/shared", "def where():\n    return where.__code__.co_filename\n")
    made = compile_prefix(first.path, cache=cache)
    assert (made.files, share(made, cache)) == (1, 1)
    second = make_prefix(tmp_path / "two")
    path, second_cached = _module(second, "package/shared", "def where():\n    return where.__code__.co_filename\n")
    other, _ = _module(second, "package/other", "value = 'other'\n")
    again = compile_prefix(second.path, cache=cache)
    assert (again.files, len(again.made)) == (2, 1)
    assert second_cached.stat().st_ino == first_cached.stat().st_ino
    assert second.run("import package.shared; print(package.shared.where())") == str(path)
    assert second.run("import package.other; print(package.other.value)") == "other"
    assert other.exists()


def test_repair_exchanges_what_the_cache_has(tmp_path: Path) -> None:
    """Without the cache everything is compiled anew, and `share` with `replace` puts the new files into the cache."""
    cache = tmp_path / "cache"
    prefixes = [make_prefix(tmp_path / name) for name in ("one", "two")]
    cached = [_module(prefix, "module")[1] for prefix in prefixes]
    share(compile_prefix(prefixes[0].path, cache=cache), cache)
    made = compile_prefix(prefixes[1].path)
    assert share(made, cache, replace=True) == 1
    assert cached[0].stat().st_nlink == 1
    assert cached[1].stat().st_nlink == 2
    assert [path.stat().st_ino for path in cache.glob("bytecode/*/*")] == [cached[1].stat().st_ino]
