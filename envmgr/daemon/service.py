"""All that the routes do, without HTTP: who may do what, and from a request to an answer or an operation.

Every method takes the caller first and raises `EnvmgrError`; all may block except `look`. What changes something is
told to the observer once: as it ends, or as it is refused.

**Roles.** ``use`` may name, list, look, and have what the settings allow made or locked, up to
``max_environments_per_user``, and may set an alias that is free; a lockfile that he brings must equal the one in force,
since everybody's environment of that spec is built from the first one. ``admin`` may do everything, with any spec: the
settings ``allowed_channels``, ``allowed_indexes``, ``allow_git_urls`` and ``allow_sdists`` of a service do not bind
him. An operation is ended by an admin, or by the only one who asked for it.

**What is ready costs no place in the queue** and no build slot. What is not is one operation per name, however many
ask; where the rules of ``use`` could make a build of the same spec fail that an admin may have, there are two, of which
the manager lets one wait for the other.

It is one list of verbs in one module, although that makes it a little long.

Not promised: that ``max_environments_per_user`` counts what was removed and is being deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import TYPE_CHECKING

from envmgr import names, policy, ready
from envmgr.daemon import answers, documents, work
from envmgr.daemon.inspection import Inspection, managers
from envmgr.daemon.roles import only_admin
from envmgr.daemon.telling import Nobody, Observer, Teller
from envmgr.errors import (
    EnvironmentNotFound,
    EnvmgrError,
    PolicyRefused,
    TimedOut,
    UsageError,
)
from envmgr.manager.ensure import check_found, check_given, lockfile_in_force
from envmgr.manager.manager import Manager
from envmgr.names import EnvName
from envmgr.operations import Flight, Operations, Work, identity
from envmgr.settings.kinds import OPTIONAL_TIME
from envmgr.store import publication, records
from envmgr.wire import socket as wire

if TYPE_CHECKING:
    from envmgr.manager.context import Context
    from envmgr.model import Caller, Spec
    from envmgr.names import Alias
    from envmgr.settings import Settings

_LOOK_BYTES = 1 << 18
"""A longer text is not hashed on the event loop."""
_REQUEST_ID_CHARS = 64
MOST_TEXTS = 100
"""So many documents of one name are remembered for callers while a daemon lives; further ones are parsed."""
MOST_ALIASES = 200
"""So many aliases of one name, and users set no more."""
_REMOVAL_WAITS_S = 50.0
"""Less than a request may take."""


class Service(Inspection):
    """See the module."""

    def __init__(
        self,
        manager: Manager,
        *,
        operations: Operations,
        observer: Observer | None = None,
        reread: Callable[[], Settings] | None = None,
    ) -> None:
        """`reread` returns the settings in force now, for `reload`."""
        super().__init__(manager, operations)
        self._teller = Teller(observer or Nobody(), self._layout, manager.context.clock)
        self._reread = reread
        self._admission = threading.Lock()
        self._reloading = threading.Lock()
        self._aliasing = threading.Lock()  # whose an alias is and what it stands for change together
        self._remembered: Counter[EnvName] = Counter()
        operations.hear_of_ends(self._teller.ended)

    # ------------------------------------------------------------------------------------------------- to have it ready

    def look(self, caller: Caller, request: wire.EnsureRequest) -> ready.Lease | None:  # noqa: ARG002 - all may
        """Return a lease on what is ready and named by a word or a text that was seen before; else ask `ensure`.

        Microseconds, for an event loop; never raises, since `ensure` says what is wrong.
        """
        if request.lockfile is not None or (request.name is None) == (request.spec is None):
            return None
        try:
            word: str | None = request.name
            if request.spec is not None:
                word = self._seen(request.spec, _LOOK_BYTES)
            if word is None or not (names.is_name(word) or names.is_alias(word)):
                return None
            if request.alias is not None and ready.resolve_alias(self._root, request.alias) != ready.resolve_alias(
                self._root, word
            ):
                return None
            return ready.acquire(self._root, word, patience_s=0.0)
        except (EnvmgrError, OSError):
            return None

    def _seen(self, document: wire.SpecDocument, max_bytes: int | None = None) -> EnvName | None:
        """Return the name of a document that was seen before."""
        if max_bytes is not None and len(document.text) > max_bytes:
            return None
        text = documents.text_bytes(document)
        return None if text is None else ready.seen_name(self._root, ready.text_key(text))

    def ensure(self, caller: Caller, request: wire.EnsureRequest) -> ready.Lease | Flight:
        """Return the leased environment if it is ready, else the operation that makes it."""
        with self._teller.told("ensure", caller, request.name, is_told_later=True) as telling:
            if (request.name is None) == (request.spec is None):
                raise UsageError("a request has either a spec or a name")
            if request.request_id is not None and len(request.request_id) > _REQUEST_ID_CHARS:
                raise UsageError(f"request_id has more than {_REQUEST_ID_CHARS} characters")
            alias = None if request.alias is None else names.alias(request.alias)
            lock_text = None
            if request.lockfile is not None:
                lock_text = documents.lock_text(request.lockfile, self.settings.subdir)
            found = self._find(request, lock_text)
            telling.name = found.name
            with contextlib.ExitStack() as undone:
                if isinstance(found, ready.Lease):
                    undone.callback(found.close)
                if alias is not None:
                    self._check_alias(caller, alias, found.name, is_move=request.move_alias)
                if not isinstance(found, ready.Lease):
                    return self._make(caller, found, request, lock_text, alias)
                if alias is not None:
                    self._set_alias(caller, alias, found.name, is_move=request.move_alias)
                undone.pop_all()
                return found

    def _find(self, request: wire.EnsureRequest, lock_text: str | None) -> ready.Lease | Spec:
        """Return what is asked for: leased if it is ready, else its spec."""
        name = self._seen(request.spec) if request.spec is not None else self._name(str(request.name))
        if name is not None and lock_text is None:
            lease = ready.acquire(self._root, name)
            if lease is not None:
                return lease
        if request.spec is not None:
            spec = documents.parse(request.spec)
        else:
            spec = self._stored_spec(self._name(str(request.name)))
        lease = ready.acquire(self._root, spec.name)
        if lease is None:
            return spec
        check_found(self._managers.use.context, spec, lease, lock_text)
        self._remember(request, spec)
        return lease

    def _make(
        self, caller: Caller, spec: Spec, request: wire.EnsureRequest, lock_text: str | None, alias: Alias | None
    ) -> Flight:
        manager = self._manager(caller)
        policy.check(spec, manager.context.settings)
        failure = records.read_failure(self._layout, spec.name)
        # What the rules of others refused says nothing of an admin's try.
        if failure is not None and (request.retry or (caller.role == "admin" and failure.code == PolicyRefused.code)):
            records.clear_failure(self._layout, spec.name)

        if lock_text is not None and caller.role != "admin":
            lock_text = _in_force(manager.context, spec, lock_text)
        text = None if request.spec is None else documents.text_bytes(request.spec)
        doing = work.ensuring(manager, spec, lock_text, text, _creator(caller))

        def then() -> None:
            if alias is not None:
                self._set_alias(caller, alias, spec.name, is_move=request.move_alias)

        given = None if lock_text is None else hashlib.sha256(lock_text.encode()).hexdigest()
        rules = caller.role if spec.pip or spec.is_lockfile or given else None
        with self._admission:
            self._check_count(caller, spec.name)
            return self._operations.submit(
                "ensure", ("ensure", spec.name, given, rules), spec.name, caller, doing,
                cancel_when_unwanted=request.cancel_when_unwanted, then=None if alias is None else then,
                request_id=request.request_id,
            )  # fmt: skip

    def have(self, caller: Caller, spec: Spec, *, is_retry: bool) -> ready.Lease | Flight:
        """Do as `ensure` for a spec that was read already."""
        with self._teller.told("ensure", caller, spec.name, is_told_later=True):
            request = wire.EnsureRequest(name=spec.name, retry=is_retry)
            return ready.acquire(self._root, spec.name) or self._make(caller, spec, request, None, None)

    def _remember(self, request: wire.EnsureRequest, spec: Spec) -> None:
        text = None if request.spec is None else documents.text_bytes(request.spec)
        if text is not None and not spec.has_includes and self._remembered[spec.name] < MOST_TEXTS:
            self._remembered[spec.name] += 1
            self._managers.use.remember_text(text, spec.name)

    def _check_count(self, caller: Caller, name: EnvName) -> None:
        most = self.settings.max_environments_per_user
        if not most or caller.role == "admin":
            return
        coming = [flight for flight in self._operations.all() if flight.kind == "ensure" and not flight.is_finished]
        if any(flight.name == name for flight in coming):
            return
        creator = _creator(caller)
        made = {it for it in publication.published(self._layout) if records.read_creator(self._layout, it) == creator}
        made |= {flight.name for flight in coming if flight.name and identity(flight.by) == identity(caller)}
        if len(made) >= most:
            raise PolicyRefused(
                f"{caller.user} has had {len(made)} environments made, which is as many as a user may",
                hint="setting max_environments_per_user; an administrator can remove some",
                rule="environments-per-user",
                setting="max_environments_per_user",
            )

    # --------------------------------------------------------------------------------------------------- to change

    def remove(
        self, caller: Caller, word: str, mode: wire.RemoveMode, *, forget: bool, by_cluster: bool = False
    ) -> wire.Removed:
        """Remove an environment; waits a while for a build of it, then `TimedOut`."""
        with self._teller.told("remove", caller, word, mode=mode, forget=forget) as telling:
            only_admin(caller, "removes an environment")
            name = telling.name = self._name(word)
            self._operations.release(name)
            try:
                removed = self._managers.admin.remove(
                    name, when_free=mode == "when-free", forget=forget, by_cluster=by_cluster,
                    timeout_s=_REMOVAL_WAITS_S,
                )  # fmt: skip
            except TimedOut as error:
                raise TimedOut(
                    f"{name} is still being built and cannot be removed now",
                    hint="cancel its operation, or ask again when it has ended",
                    timeout_s=_REMOVAL_WAITS_S,
                ) from error
            telling.facts["build_id"] = removed.build_id
            return answers.removed(removed)

    def relock(self, caller: Caller, word: str, request: wire.RelockRequest) -> Flight:
        """Solve again, build and republish."""
        with self._teller.told("relock", caller, word, is_told_later=True) as telling:
            only_admin(caller, "relocks an environment")
            name = telling.name = self._published(word)
            newest = None
            if request.exclude_newer is not None:
                try:
                    newest = OPTIONAL_TIME.from_toml(request.exclude_newer)
                except ValueError as error:
                    raise UsageError(f"exclude_newer: expected {OPTIONAL_TIME.name}") from error
            doing = work.relocking(self._managers.admin, name, newest)
            return self._submit("relock", name, caller, doing, newest)

    def repair(self, caller: Caller, word: str) -> Flight:
        """Build the same packages again and republish."""
        with self._teller.told("repair", caller, word, is_told_later=True) as telling:
            only_admin(caller, "repairs an environment")
            name = telling.name = self._published(word)
            return self._submit("repair", name, caller, work.repairing(self._managers.admin, name))

    def align(self, caller: Caller, name: EnvName) -> Flight:
        """Bring what is published to the cluster's lockfile in force."""
        with self._teller.told("align", caller, name, is_told_later=True):
            return self._submit("relock", name, caller, work.aligning(self._managers.admin, name), "align")

    def lock(self, caller: Caller, request: wire.LockRequest) -> Flight:
        """Find the lockfile of a spec."""
        with self._teller.told("lock", caller, None, is_told_later=True) as telling:
            spec = documents.parse(request.spec)
            telling.name = spec.name
            manager = self._manager(caller)
            policy.check(spec, manager.context.settings)
            rules = caller.role if spec.pip else None
            return self._submit(
                "lock", spec.name, caller, work.locking(manager, spec), rules,
                cancel_when_unwanted=request.cancel_when_unwanted,
            )  # fmt: skip

    def collect(self, caller: Caller, request: wire.CollectRequest) -> Flight:
        """Free what the settings' limits, or the request's, say."""
        with self._teller.told("collect", caller, None, is_told_later=True):
            only_admin(caller, "frees what no environment needs")
            doing = work.collecting(self._managers.admin, request, self._protected)
            return self._submit("collect", None, caller, doing, request)

    def _protected(self) -> frozenset[EnvName]:
        return self.coming() | frozenset(self.declared())

    def coming(self) -> frozenset[EnvName]:
        """Return the environments that somebody is having made."""
        return frozenset(it.name for it in self._operations.all() if it.name is not None and not it.is_finished)

    def set_pinned(self, caller: Caller, word: str, *, is_pinned: bool) -> wire.Pinned:
        """Pin or unpin an environment against collection."""
        with self._teller.told("pin" if is_pinned else "unpin", caller, word) as telling:
            only_admin(caller, "pins an environment")
            name = telling.name = self._name(word)
            self._managers.use.pin(name, is_pinned=is_pinned)
            return wire.Pinned(name=name, is_pinned=is_pinned)

    def set_alias(self, caller: Caller, alias: str, request: wire.AliasRequest) -> wire.Aliases:
        """Let an alias stand for an environment, and return every alias."""
        with self._teller.told("alias", caller, request.environment, alias=alias) as telling:
            checked = names.alias(alias)
            name = telling.name = self._name(request.environment)
            self._check_alias(caller, checked, name, is_move=request.move)
            self._write_alias(caller, checked, name, is_move=request.move)
            return self.aliases(caller)

    def remove_alias(self, caller: Caller, alias: str) -> wire.Aliases:
        """Drop an alias, and return those that are left; a user may drop what he had set himself."""
        with self._teller.told("unalias", caller, None, alias=alias) as telling:
            checked = names.alias(alias)
            with self._aliasing:
                held_by = publication.all_aliases(self._layout).get(checked)
                if held_by is None or records.read_alias_setter(self._layout, held_by, checked) != _creator(caller):
                    only_admin(caller, "drops an alias that another user has set")
                telling.name = self._managers.use.remove_alias(checked)
                records.clear_alias_setter(self._layout, telling.name, checked)
            return self.aliases(caller)

    # -------------------------------------------------------------------------------------------------- operations

    def cancel(self, caller: Caller, id: str) -> Flight:  # noqa: A002
        """Tell an operation to stop."""
        with self._teller.told("cancel", caller, None, operation=id[:64]) as telling:
            flight = self.operation(caller, id)
            telling.name = flight.name
            if not flight.is_only_of(caller):
                only_admin(caller, "cancels what another user asked for")
            flight.cancel(caller)
            return flight

    def drain(self, timeout_s: float) -> None:
        """Take no operation any more, and see those that are there to their end."""
        self._operations.drain(timeout_s)

    def reload(self) -> None:
        """Read the settings again; where they are wrong, the old ones stay and the error is raised."""
        if self._reread is None:
            return
        with self._reloading:  # by a signal and by the cluster: what was read last is to be in force
            settings = self._reread()
            self.work_with(replace(self._managers.use.context, settings=settings))
            self._operations.set_limits(
                max_running=settings.max_builds,
                max_waiting=settings.max_waiting,
                max_waiting_per_caller=settings.max_waiting_per_user,
            )

    def work_with(self, context: Context) -> None:
        """Do from now on all with these settings and this coordinator."""
        self._managers = managers(Manager(context))

    # ------------------------------------------------------------------------------------------------------- inside

    def _manager(self, caller: Caller) -> Manager:
        return self._managers.admin if caller.role == "admin" else self._managers.use

    def _set_alias(self, caller: Caller, alias: Alias, name: EnvName, *, is_move: bool) -> None:
        # It was free when he asked, which may be a build ago.
        with self._teller.told("alias", caller, name, alias=alias):
            self._write_alias(caller, alias, name, is_move=is_move)

    def _write_alias(self, caller: Caller, alias: Alias, name: EnvName, *, is_move: bool) -> None:
        with self._aliasing:
            is_new = publication.all_aliases(self._layout).get(alias) != name
            self._managers.use.set_alias(alias, name, move=is_move and caller.role == "admin")
            if is_new:
                clock = self._managers.use.context.clock
                records.write_alias_setter(self._layout, name, alias, _creator(caller), clock.time())

    def _check_alias(self, caller: Caller, alias: Alias, name: EnvName, *, is_move: bool) -> None:
        held_by = ready.resolve_alias(self._root, alias)
        if held_by == name:
            return
        if held_by is None:
            aliases = publication.all_aliases(self._layout).values()
            if caller.role != "admin" and sum(it == name for it in aliases) >= MOST_ALIASES:
                raise PolicyRefused(
                    f"{name} has {MOST_ALIASES} aliases, to which only an administrator adds another",
                    hint="use one of them; an administrator can drop some",
                    rule="aliases-per-environment",
                )
            return
        if not is_move:
            raise publication.alias_taken(alias, EnvName(str(held_by)), name)
        only_admin(caller, f"moves an alias ({alias} stands for {held_by})")

    def _published(self, word: str) -> EnvName:
        name = self._name(word)
        if publication.current(self._layout, name) is None:
            raise EnvironmentNotFound(f"{name} is not in {self._root}", hint="envmgr create FILE makes it")
        return name

    def _submit(
        self, kind: wire.Kind, name: EnvName | None, caller: Caller, doing: Work, *details: Hashable,
        cancel_when_unwanted: bool = False,
    ) -> Flight:  # fmt: skip
        return self._operations.submit(
            kind, (kind, name, *details), name, caller, doing, cancel_when_unwanted=cancel_when_unwanted
        )


def _creator(caller: Caller) -> int:
    """Return what `records.write_creator` keeps of a caller: his uid, or for a token a negative number of its name."""
    return -1 - zlib.crc32(caller.user.encode()) if caller.uid is None else caller.uid


def _in_force(context: Context, spec: Spec, lock_text: str) -> str:
    """Return the lockfile in force, which a brought one must equal; its places are its own, and stay."""
    in_force = lockfile_in_force(context, spec)
    if in_force is None:
        raise PolicyRefused(
            f"only an administrator brings the first lockfile of {spec.name}: everybody else would get its packages",
            hint="leave it out; or create the environment from the lockfile itself, which has a name of its own",
            rule="lockfile",
        )
    check_given(context, spec, lock_text, in_force)
    return in_force
