"""The thread that starts one builder and stays for as long as it lives.

The kernel kills a builder when the *thread* that forked it ends. A thread that stayed longer than the builder would
make every later ``fork`` of the caller's program one of a process with threads, of which Python warns from 3.12 on.

Source: prctl(2).
"""

from __future__ import annotations

import errno
import os
import subprocess
import threading
import time
from concurrent.futures import Future
from typing import Any

_LOOK_S = 0.0005


class Forker:
    """The thread that starts one builder, and is there until it is told that the builder has ended."""

    def __init__(self) -> None:
        self._is_over = threading.Event()
        self._thread_id: int | None = None

    def start(self, started: Future[subprocess.Popen[bytes]], **order: Any) -> None:
        """Start a process; `started` gets it, or the error."""
        thread = threading.Thread(target=self._work, args=(started, order), name="envmgr-forker", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, "no thread can be started") from error

    def _work(self, started: Future[subprocess.Popen[bytes]], order: dict[str, Any]) -> None:
        self._thread_id = threading.get_native_id()
        try:
            if started.set_running_or_notify_cancel():
                started.set_result(subprocess.Popen(**order))
        except BaseException as error:  # noqa: BLE001 - whoever ordered gets it
            started.set_exception(error)
        self._is_over.wait()

    def end(self) -> None:
        """Let the thread end, and return when the kernel, too, knows of it no more."""
        self._is_over.set()
        while self._thread_id is not None and os.path.exists(f"/proc/self/task/{self._thread_id}"):
            time.sleep(_LOOK_S)
