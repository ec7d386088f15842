"""Compiles what a prefix holds of Python to byte-code, with the prefix's own interpreter.

After publication a prefix is read-only: what is not compiled now is compiled again by every process that imports it.
conda's noarch packages and uv's wheels come without byte-code, and of the others some does not fit any more (text
that had the prefix replaced). So every ``.py`` below the standard library's directory and site-packages gets a
``__pycache__`` entry, unless a valid one is there.

* Python 3.7 and later: *unchecked-hash* files (PEP 552), which are valid whatever happens to time stamps, and cost no
  look at the source. Older ones: files that carry the source's time and size.
* A ``.pyc`` is always a new file that takes the place of the old one: the old one's bytes may be shared with the
  package cache and with other prefixes.
* What does not compile (templates, code for another Python, test data) is left as it is and counted, not named a fault:
  packages are full of it.

The work is done by a short program in the prefix's interpreter: `WORKERS` processes that take the files by size in
turn. ``compileall`` does the same one file at a time through a pool: a fifth slower, and silent while it
runs. Source: PEP 552, PEP 3147, py_compile.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from envmgr.backends.pip.interpreter import Interpreter, inspect
from envmgr.backends.processes import Finished
from envmgr.backends.processes import run as run_process
from envmgr.errors import BuildFailed, NoSpace
from envmgr.events import Event, Reporter, ignore

WORKERS = 2
MAX_WORKERS = 8
_PROGRESS = "envmgr-compiled "
_ERROR = "envmgr-error "

# Runs in Python 3.6 and later, without site, so that no package's start-up code runs.
_PROGRAM = r"""
import gc, importlib.util, os, py_compile, struct, sys, warnings
workers, roots = int(sys.argv[1]), sys.argv[2:]
is_hashed = sys.version_info >= (3, 7)
extra = {"invalidation_mode": py_compile.PycInvalidationMode.UNCHECKED_HASH} if is_hashed else {}
magic = importlib.util.MAGIC_NUMBER
tag = "." + sys.implementation.cache_tag + ".pyc"
warnings.simplefilter("ignore")
gc.disable()


def is_valid(path, cached):
    try:
        with open(cached, "rb") as file:
            header = file.read(16)
    except OSError:
        return False
    if header[:4] != magic or len(header) < 12:
        return False
    if is_hashed and struct.unpack("<I", header[4:8])[0]:
        return True
    status = os.stat(path)
    stamp = header[8:16] if is_hashed else header[4:12]
    return stamp == struct.pack("<II", int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF)


def sources():
    seen = set()
    for root in roots:
        for directory, names, files in os.walk(root):
            if directory in seen:
                names[:] = []
                continue
            seen.add(directory)
            names[:] = [name for name in names if name != "__pycache__"]
            for name in files:
                if name.endswith(".py"):
                    path = os.path.join(directory, name)
                    cached = os.path.join(directory, "__pycache__", name[:-3] + tag)
                    if os.path.isfile(path) and not is_valid(path, cached):
                        yield path


def say(text):
    os.write(1, (text + "\n").encode())


def work(paths):
    done = failed = 0
    for path in paths:
        try:
            py_compile.compile(path, doraise=True, **extra)
            done += 1
        except FileExistsError:  # the place of the byte-code is taken by something that is no file
            failed += 1
        except OSError as error:
            say("@ERROR@%d %s" % (error.errno or 0, error))
            return 1
        except BaseException:
            failed += 1
        if (done + failed) % 50 == 0:
            say("@PROGRESS@50 0 0")
    say("@PROGRESS@%d %d 0" % ((done + failed) % 50, failed))
    return 0


def size(path):
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


paths = sorted(sources(), key=size, reverse=True)
say("@PROGRESS@0 0 %d" % len(paths))
children = []
for number in range(min(workers, len(paths))):
    child = os.fork()
    if not child:
        status = 70
        try:
            status = work(paths[number::workers])
        finally:
            os._exit(status)
    children.append(child)
sys.exit(max([os.waitpid(child, 0)[1] != 0 for child in children] or [0]))
""".replace("@PROGRESS@", _PROGRESS).replace("@ERROR@", _ERROR)


class Runner(Protocol):
    """`envmgr.backends.processes.run`, or the same with the lease's descriptor bound."""

    def __call__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        environ: Mapping[str, str],
        on_line: Callable[[str], None] = ...,
    ) -> Finished: ...


@dataclass(frozen=True, slots=True)
class Compiled:
    """How many files were compiled now, and how many of those do not compile."""

    files: int
    failed: int


def compile_prefix(
    prefix: Path, *, workers: int | None = None, run: Runner = run_process, report: Reporter = ignore
) -> Compiled:
    """Compile everything in `prefix` that has no valid byte-code; nothing to do without an interpreter.

    Raises `NoSpace`, and `BuildFailed` when the interpreter does not start or one of its processes dies.
    """
    if not (prefix / "bin" / "python").exists():
        return Compiled(0, 0)
    interpreter = inspect(prefix, run=run)
    watch = _Watch(report)
    command: list[str | os.PathLike[str]] = [interpreter.path, "-I", "-S", "-c", _PROGRAM]
    command += [str(workers or worker_count()), *_roots(prefix, interpreter)]
    finished = run(command, environ={"PATH": f"{prefix}/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}, on_line=watch)
    if finished.status != 0:
        what = f"the byte-code of {prefix.name} could not be written: {watch.error or finished.text[-1000:]}"
        raise NoSpace(what) if watch.errno in {errno.ENOSPC, errno.EDQUOT} else BuildFailed(what)
    return Compiled(watch.total - watch.failed, watch.failed)


def worker_count() -> int:
    """Return how many processes compile: as many as this process may use processors, within bounds."""
    return max(WORKERS, min(MAX_WORKERS, len(os.sched_getaffinity(0))))


def _roots(prefix: Path, interpreter: Interpreter) -> list[str]:
    roots = [interpreter.stdlib, *interpreter.site_packages]
    return [str(root) for root in roots if root.is_relative_to(prefix)]


class _Watch:
    """Adds up what the workers say, and reports it."""

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self.total = self.done = self.failed = 0
        self.errno = 0
        self.error = ""

    def __call__(self, line: str) -> None:
        if line.startswith(_ERROR):
            number, _, self.error = line[len(_ERROR) :].partition(" ")
            self.errno = int(number)
        elif line.startswith(_PROGRESS):
            done, failed, total = map(int, line[len(_PROGRESS) :].split())
            self.done += done
            self.failed += failed
            self.total += total
            self._report(Event("progress", "compile", "", self.done, self.total, "files"))
        else:
            self._report(Event("log", "compile", line))
