"""`ensure` for programs that run an event loop. The work is `envmgr.client`'s; this only keeps the loop free.

A ready environment is returned without leaving the loop's thread (microseconds). Else, and with an alias, for which a
daemon may have to be asked, the call runs in a thread of its own, not in the loop's pool, which waiting callers would
fill up.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

from envmgr import client
from envmgr.errors import EnvironmentNotFound

if TYPE_CHECKING:
    from envmgr.client import Environment, SpecLike


async def ensure(spec: SpecLike, **options: Any) -> Environment:
    """Return the environment of `spec`, ready and leased; options and errors are those of `envmgr.ensure`.

    ``on_progress`` is called from the thread that does the work. A cancelled task stops its own build, waits until
    nothing of it is left (a daemon is only left: it ends what nobody wants any more a moment later), and gives a lease
    that came too late back. Cancelled once more, it no longer waits; what comes then is given back all the same, also
    when the loop has ended by then.
    """
    if options.get("alias") is None:
        try:
            return client.ensure(spec, **{**options, "create": False})
        except EnvironmentNotFound:
            if not options.get("create", True):
                raise
    given_up = threading.Event()
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Environment] = loop.create_future()

    def work() -> None:
        try:
            environment = client.ensure(spec, **options, is_cancelled=given_up.is_set)
        except BaseException as error:  # noqa: BLE001 - the caller's task raises it
            with contextlib.suppress(RuntimeError):  # the loop is closed: there is nobody to tell
                loop.call_soon_threadsafe(_settle, result, None, error)
            return
        # Here, and not only in the loop: one that stops now never comes to what was asked of it.
        if given_up.is_set():
            environment.close()
        try:
            loop.call_soon_threadsafe(_settle, result, environment, None)
        except RuntimeError:  # the loop is closed
            environment.close()

    thread = threading.Thread(target=work, name="envmgr-ensure", daemon=True)
    thread.start()
    try:
        return await asyncio.shield(result)
    except asyncio.CancelledError:
        given_up.set()
        # Before the wait, which may be cancelled itself.
        result.add_done_callback(_give_back)
        await asyncio.wait([result])
        raise


def _settle(result: asyncio.Future[Environment], environment: Environment | None, error: BaseException | None) -> None:
    if error is not None:
        result.set_exception(error)
    elif environment is not None:
        result.set_result(environment)


def _give_back(result: asyncio.Future[Environment]) -> None:
    if not result.cancelled() and result.exception() is None:
        result.result().close()
