"""The build lock: one at a time, by threads and processes, and forked children have no part in it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

import pytest
from fakes.worlds import name_of

from envmgr.store import locks
from envmgr.store.layout import Layout

NAME = name_of("demo")


def test_one_at_a_time(layout: Layout) -> None:
    """Who comes second is told so, in the same process too; the file stays, and only its owner may write it."""
    with locks.try_lock(layout, NAME) as is_first, locks.try_lock(layout, NAME) as is_second:
        assert (is_first, is_second) == (True, False)
    with locks.try_lock(layout, NAME) as is_held:
        assert is_held
    assert stat.S_IMODE(layout.lock(NAME).stat().st_mode) & ~0o644 == 0


def test_a_forked_child_does_not_give_it_back(layout: Layout) -> None:
    """A child that leaves the holder's block leaves the holder's lock alone."""
    with contextlib.ExitStack() as holding:
        assert holding.enter_context(locks.try_lock(layout, NAME))
        child = os.fork()
        if not child:
            holding.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        with locks.try_lock(layout, NAME) as is_free:
            assert not is_free


def test_a_forked_child_does_not_keep_it(layout: Layout) -> None:
    """The lock ends with its process, although a child that it forked lives on."""
    waiting, leave = os.pipe()
    there, here = os.pipe()
    holder = os.fork()
    if not holder:
        os.close(leave)
        with locks.try_lock(layout, NAME) as is_held:
            if not os.fork():
                os.write(here, b".")
                os.read(waiting, 1)
                os._exit(0)
            os.read(there, 1)
            os._exit(0 if is_held else 1)
    try:
        assert os.waitpid(holder, 0)[1] == 0
        with locks.try_lock(layout, NAME) as is_free:
            assert is_free
    finally:
        for fd in (waiting, leave, there, here):
            os.close(fd)


def test_a_link_in_its_place_is_not_followed(layout: Layout) -> None:
    """A symbolic link where the lock file belongs locks nothing elsewhere."""
    layout.lock(NAME).symlink_to(layout.root / "elsewhere")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)), locks.try_lock(layout, NAME):
        pass
    assert not (layout.root / "elsewhere").exists()
