"""Lets no program of a build wait for the disk: one `syncfs` at the end (`envmgr.fsio.Step.SYNC`) stands for all.

rattler calls ``fsync`` for the record of each package: hundreds of journal commits that promise nothing to anybody,
because a build that was not synced as a whole is thrown away. A seccomp filter answers ``fsync`` and ``fdatasync`` with
success, in this process and in all that it starts; ``syncfs``, ``sync`` and ``msync`` are not touched. The filter
cannot be taken away again, and the kernel wants `no_new_privs` for it: set-user-id programs have no power in a build.

What a build leaves outside of its directory counts on no ``fsync`` either: entries of the package cache are believed
only after the build's `syncfs` or within the same boot (`envmgr.backends.archives`), and so is uv's cache
(`envmgr.backends.pip.cache`); archives are hashed before they are unpacked; byte-code gets its name after the `syncfs`.
Errors of writing that ``fsync`` would tell are told by `syncfs` (Linux 5.8).

Where there is no seccomp, or the machine is not in the table, nothing is different but the time.

Source: seccomp(2), prctl(2), Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import ctypes
import os
import struct

_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
_ALLOW = 0x7FFF0000
_SUCCEED = 0x00050000  # SECCOMP_RET_ERRNO with no error

# machine -> what audit calls it, and its numbers of fsync and fdatasync
_MACHINES = {"x86_64": (0xC000003E, 74, 75), "aarch64": (0xC00000B7, 82, 83)}


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def defer() -> bool:
    """Answer every later ``fsync`` of this thread and of what it starts with success; tell whether that is so now.

    For a process's first thread, before it has others.
    """
    machine = _MACHINES.get(os.uname().machine)
    if machine is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    architecture, fsync, fdatasync = machine
    steps = (
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_IF_EQUAL, 0, 4, architecture),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_JUMP_IF_EQUAL, 1, 0, fsync),
        (_JUMP_IF_EQUAL, 0, 1, fdatasync),
        (_RETURN, 0, 0, _SUCCEED),
        (_RETURN, 0, 0, _ALLOW),
    )
    filter_ = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = _Program(len(steps), ctypes.addressof(filter_))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program)) == 0)
