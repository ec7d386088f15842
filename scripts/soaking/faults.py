"""What befalls a daemon: signals to it and to its builders."""

from __future__ import annotations

import contextlib
import random
import signal
import threading

import psutil

from soaking.place import Place


def befall(place: Place, chance: random.Random, is_over: threading.Event, did: list[str]) -> None:
    """Do one harm after the other until the round is over; the daemon is started again after each that ends it."""
    while not is_over.wait(chance.uniform(0.1, 1.5)):
        (what,) = chance.choices(["builder", "kill", "stop", "reload"], [5, 2, 1, 1])
        if what == "builder":
            builders = place.builders()
            if not builders:
                continue
            with contextlib.suppress(psutil.Error):
                chance.choice(builders).kill()
        elif what == "reload":
            place.signal_daemon(signal.SIGHUP)
        else:
            place.restart_daemon(signal.SIGKILL if what == "kill" else signal.SIGTERM)
        did.append(what)
