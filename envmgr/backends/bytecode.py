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

The same source, compiled by the same interpreter, is the same byte-code wherever it lies: importing corrects the path
that a ``.pyc`` remembers (``importlib`` fixes ``co_filename`` in all of its code objects). So the package cache keeps
byte-code by the SHA-256 of its source, and a build links what is there instead of compiling it again::

    <package_cache>/bytecode/<cache tag>-<magic number>/<sha256 of the source>

`share` adds to it after the build was synced: what has a name there is whole, also after a crash. Entries are hard
links of the environments' own files; one that no environment has any more has a link count of one, and collection takes
it.

The work is done by a short program in the prefix's interpreter: `WORKERS` processes that take the files by size in
turn. ``compileall`` does the same one file at a time through a pool: a fifth slower, and silent while it
runs. Source: PEP 552, PEP 3147, py_compile.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from envmgr import fsio
from envmgr.backends.pip.interpreter import Interpreter, inspect
from envmgr.backends.processes import Finished
from envmgr.backends.processes import run as run_process
from envmgr.errors import BuildFailed, NoSpace
from envmgr.events import Event, Reporter, ignore

DIRECTORY = "bytecode"
WORKERS = 2
MAX_WORKERS = 8
_PROGRESS = "envmgr-compiled "
_ERROR = "envmgr-error "
_MADE = "envmgr-made "

# Runs in Python 3.6 and later, without site, so that no package's start-up code runs.
_PROGRAM = (
    r"""
import gc, hashlib, importlib.util, os, py_compile, struct, sys, warnings
workers, cache, roots = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
is_hashed = sys.version_info >= (3, 7)
extra = {"invalidation_mode": py_compile.PycInvalidationMode.UNCHECKED_HASH} if is_hashed else {}
magic = importlib.util.MAGIC_NUMBER
tag = "." + sys.implementation.cache_tag + ".pyc"
kind = "%s-%d/" % (sys.implementation.cache_tag, struct.unpack("<H", magic[:2])[0])
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


# Returns whether the cache had byte-code for the source, which then is in its place.
def link(key, place):
    beside = place + ".linked"
    try:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.link(os.path.join(cache, key), beside)
    except OSError:
        return False
    os.replace(beside, place)
    return True


def key_of(path):
    with open(path, "rb") as file:
        return kind + hashlib.sha256(file.read()).hexdigest()


def say(text):
    os.write(1, (text + "\n").encode())


def work(paths):
    done = failed = 0
    for path in paths:
        try:
            directory, name = os.path.split(path)
            place = os.path.join(directory, "__pycache__", name[:-3] + tag)
            key = key_of(path)
            if not (cache and is_hashed and link(key, place)):
                py_compile.compile(path, cfile=place, doraise=True, **extra)
                if is_hashed and "\n" not in path:
                    say("@MADE@%s %s" % (key, place))
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
""".replace("@PROGRESS@", _PROGRESS)
    .replace("@ERROR@", _ERROR)
    .replace("@MADE@", _MADE)
)


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
    """How many files got byte-code now, and how many do not compile.

    `made` are those that were compiled, not linked: key in the cache and place of the byte-code.
    """

    files: int
    failed: int
    made: tuple[tuple[str, Path], ...] = field(default=(), compare=False, repr=False)


def compile_prefix(
    prefix: Path,
    *,
    cache: Path | None = None,
    workers: int | None = None,
    run: Runner = run_process,
    report: Reporter = ignore,
) -> Compiled:
    """Compile everything in `prefix` that has no valid byte-code; nothing to do without an interpreter.

    What the package cache at `cache` has byte-code for is linked from there.

    Raises `NoSpace`, and `BuildFailed` when the interpreter does not start or one of its processes dies.
    """
    if not (prefix / "bin" / "python").exists():
        return Compiled(0, 0)
    interpreter = inspect(prefix, run=run)
    watch = _Watch(report)
    command: list[str | os.PathLike[str]] = [interpreter.path, "-I", "-S", "-c", _PROGRAM]
    command += [str(workers or worker_count()), str(cache / DIRECTORY) if cache else "", *_roots(prefix, interpreter)]
    finished = run(command, environ={"PATH": f"{prefix}/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}, on_line=watch)
    if finished.status != 0:
        what = f"the byte-code of {prefix.name} could not be written: {watch.error or finished.text[-1000:]}"
        raise NoSpace(what) if watch.errno in fsio.OUT_OF_SPACE else BuildFailed(what)
    return Compiled(watch.total - watch.failed, watch.failed, tuple(watch.made))


def share(compiled: Compiled, cache: Path, *, replace: bool = False) -> int:
    """Keep what was compiled in the package cache; return how many files were added.

    Only once the prefix has been synced to disk: what is in the cache is believed. `replace` exchanges what is there
    (repair does not believe it).
    """
    directory = cache / DIRECTORY
    for kind in {key.partition("/")[0] for key, _ in compiled.made}:
        (directory / kind).mkdir(parents=True, exist_ok=True)
    return sum(_keep(place, directory / key, replace=replace) for key, place in compiled.made)


def _keep(path: Path, kept: Path, *, replace: bool) -> int:
    beside = kept.with_name(f"{fsio.TEMPORARY}{kept.name}-{os.getpid()}")
    try:
        if not replace:
            os.link(path, kept)
            return 1
        os.link(path, beside)
    except FileExistsError:
        return 0  # another build was faster
    except OSError as error:
        if error.errno in {errno.EMLINK, errno.EXDEV, errno.EPERM}:
            return 0  # as many links as the file system allows, or none at all: nothing is lost but time
        raise
    os.replace(beside, kept)
    return 1


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
        self.made: list[tuple[str, Path]] = []

    def __call__(self, line: str) -> None:
        if line.startswith(_ERROR):
            number, _, self.error = line[len(_ERROR) :].partition(" ")
            self.errno = int(number)
        elif line.startswith(_MADE):
            key, _, place = line[len(_MADE) :].partition(" ")
            self.made.append((key, Path(place)))
        elif line.startswith(_PROGRESS):
            done, failed, total = map(int, line[len(_PROGRESS) :].split())
            self.done += done
            self.failed += failed
            self.total += total
            self._report(Event("progress", "compile", "", self.done, self.total, "files"))
        else:
            self._report(Event("log", "compile", line))
