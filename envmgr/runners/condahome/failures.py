"""Remembers that a process failed to create an environment, so that its clean-up takes nobody else's.

MLSQL and MLflow answer a failed ``conda env create -n N`` with ``conda env remove -n N``, in order to clear away what
they left half-made. Nothing is half-made here; but meanwhile N may be what another engine has made, and the loser of
that race would take it away. So the first removal of N by the process whose creation of N failed does nothing.

The process is the one that called conda (its pid and when it started), and the note a file in a directory of the user's
own: empty, it counts for a minute after a failure; with a pid in it, that process creates, or was killed while it did.
A server is one process with many engines, so who succeeds forgets only what was over when he began: a failure of that
very time is another engine's, whose clean-up is still to come.
Where there is no place for it, a removal is taken at its word: no more is lost than an alias, which the next creation
sets again.

Whoever writes a note deletes those of processes that are gone, once they are a day old: such a process has no children
any more who could read or write one, or it is another container's, where a creation is over after a day.

Not recognised is who creates in one shell (``bash -c "conda …; …"``) and removes in another: each is a caller of its
own. Were both taken for the process that started them, its other shells could not be told from them any more, and what
one of these has made and then removes in earnest would stay.
"""

import contextlib
import os
import stat
import time

_VALID_S = 60.0
_KEPT_S = 86400.0
_CLOCK_S = 0.01  # so much may a file system's clock be behind


def begin(word: str) -> None:
    """Note that the caller of this process has `word` created; `remember` or `settle` says how it ended."""
    _write(word, b"%d" % os.getpid())


def remember(word: str) -> None:
    """Note that the caller of this process could not create `word`."""
    _write(word, b"")


def settle(word: str, began_at: float) -> None:
    """Forget what was noted of `word`, now that its creation, begun at `began_at` (a time), was a success."""
    path = _note(word)
    if path is None:
        return
    try:
        with open(path, "rb") as file:
            creator, noted_at = file.read(20).decode("ascii"), os.fstat(file.fileno()).st_mtime
        is_anothers = creator != str(os.getpid()) and os.path.exists(f"/proc/{creator}")
        if not (is_anothers if creator else noted_at >= began_at - _CLOCK_S):
            os.unlink(path)
    except OSError:
        return


def take(word: str) -> bool:
    """Tell whether the caller of this process failed to create `word`, and forget it."""
    path = _note(word)
    if path is None:
        return False
    try:
        found = os.stat(path, follow_symlinks=False)
        os.unlink(path)
    except OSError:
        return False
    return found.st_size > 0 or time.time() - found.st_mtime < _VALID_S


def _write(word: str, text: bytes) -> None:
    path = _note(word)
    if path is None:
        return
    _clear(os.path.dirname(path))
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return
    try:
        os.write(fd, text)
        os.utime(fd)
    except OSError:
        os.unlink(path)
    finally:
        os.close(fd)


def _clear(directory: str) -> None:
    """Delete what is old and nobody's; see the module."""
    before = time.time() - _KEPT_S
    with contextlib.suppress(OSError), os.scandir(directory) as notes:
        for note in notes:
            pid, _, rest = note.name.partition("-")
            with contextlib.suppress(OSError):  # another one deletes it, too
                if note.stat(follow_symlinks=False).st_mtime < before and _started(pid) != rest.partition("-")[0]:
                    os.unlink(note.path)


def _started(pid: "int | str") -> "str | None":
    """Return when a process started, ``None`` where there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return None


def _note(word: str) -> "str | None":
    parent = os.getppid()
    started = _started(parent)
    if started is None:
        return None
    try:
        temporary = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - looked at below; importing tempfile costs 10 ms
        directory = f"{temporary}/envmgr-condahome-{os.geteuid()}"
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            found = os.stat(directory, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
                return None  # somebody else put it there
    except OSError:
        return None
    return f"{directory}/{parent}-{started}-{word}"
