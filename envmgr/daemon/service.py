"""All that the routes do, without HTTP: who may do what, and from a request to an answer or an operation.

Every method takes the caller first and raises `EnvmgrError`; all may block except `look`. What changes something is
told to the observer once: as it ends, or as it is refused.

**Roles.** ``use`` may name, list, look, and have what the settings allow made or locked, up to
``max_environments_per_user``, and may set an alias that is free. ``admin`` may do everything, with any spec: the
settings ``allowed_channels``, ``allowed_indexes``, ``allow_git_urls`` and ``allow_sdists`` do not bind him. An
operation is ended by an admin, or by the only one who asked for it.

**What is ready costs no place in the queue** and no build slot. What is not is one operation per name, however many
ask; where the rules of ``use`` could make a build of the same spec fail that an admin may have, there are two, of which
the manager lets one wait for the other.

Not promised: that ``max_environments_per_user`` counts what was removed and is being deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import zlib
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from envmgr import lockfile, names, policy, ready
from envmgr.daemon import answers, documents
from envmgr.errors import (
    Busy,
    Cancelled,
    Corrupt,
    EnvironmentNotFound,
    EnvmgrError,
    PermissionRefused,
    PolicyRefused,
    UsageError,
)
from envmgr.events import Reporter
from envmgr.manager.context import free_space
from envmgr.manager.ensure import check_found
from envmgr.manager.manager import Manager
from envmgr.names import BuildId, EnvName
from envmgr.operations import Flight, Leased, Operations, Work, identity
from envmgr.settings.kinds import OPTIONAL_TIME
from envmgr.store import opening, publication, records, sweep
from envmgr.version import __version__
from envmgr.wire import socket as wire

if TYPE_CHECKING:
    from envmgr.model import Caller, EnvironmentInfo, Spec
    from envmgr.names import Alias
    from envmgr.settings import Settings

_LOOK_BYTES = 1 << 18
"""A longer text is not hashed on the event loop."""
_REMOVAL_WAITS_S = 300.0


class Observer(Protocol):
    """Hears of every change once."""

    def changed(
        self, caller: Caller, what: str, name: str | None, outcome: str, duration_s: float, **facts: object
    ) -> None:
        """Hear of a change that ended or was refused; `outcome`: succeeded, failed, cancelled, refused."""


class Nobody:
    """The observer of who needs none."""

    def changed(
        self, caller: Caller, what: str, name: str | None, outcome: str, duration_s: float, **facts: object
    ) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Managers:
    """One store under the settings, and without the limits that do not bind admins."""

    use: Manager
    admin: Manager


def _managers(manager: Manager) -> _Managers:
    unlimited = replace(
        manager.context.settings, allowed_channels=(), allowed_indexes=(), allow_git_urls=True, allow_sdists=None
    )
    return _Managers(manager, Manager(replace(manager.context, settings=unlimited)))


class Service:
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
        self._managers = _managers(manager)
        self._layout = manager.context.layout
        self._root = manager.context.root
        self._clock = manager.context.clock
        self._operations = operations
        self._observer: Observer = observer or Nobody()
        self._reread = reread
        self._admission = threading.Lock()
        self._started_at = self._clock.time()
        operations.hear_of_ends(self._ended)

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._managers.use.context.settings

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
        with self._told("ensure", caller, request.name, is_told_later=True) as telling:
            if (request.name is None) == (request.spec is None):
                raise UsageError("a request has either a spec or a name")
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
                    self._managers.use.set_alias(alias, found.name, move=request.move_alias)
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

        def work(report: Reporter, is_cancelled: Callable[[], bool]) -> Leased:
            ensured = manager.ensure(spec, lock_text=lock_text, is_cancelled=is_cancelled, report=report)
            if ensured.was_built:
                with contextlib.suppress(OSError):  # a full disk: the environment is there all the same
                    records.write_creator(self._layout, spec.name, _creator(caller), self._clock.time())
            self._remember(request, spec)
            result = wire.EnsureResult(
                ready=answers.ready(ensured.lease), was_built=ensured.was_built, duration_s=ensured.duration_s
            )
            return Leased(result, ensured.lease)

        def then() -> None:
            if alias is not None:
                manager.set_alias(alias, spec.name, move=request.move_alias)

        given = None if lock_text is None else hashlib.sha256(lock_text.encode()).hexdigest()
        rules = caller.role if spec.pip or spec.is_lockfile or given else None
        with self._admission:
            self._check_count(caller, spec.name)
            return self._operations.submit(
                "ensure", ("ensure", spec.name, given, rules), spec.name, caller, work,
                cancel_when_unwanted=request.cancel_when_unwanted, then=None if alias is None else then,
            )  # fmt: skip

    def _remember(self, request: wire.EnsureRequest, spec: Spec) -> None:
        text = None if request.spec is None else documents.text_bytes(request.spec)
        if text is not None and not spec.has_includes:
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

    # ------------------------------------------------------------------------------------------------------ to look

    def name(self, caller: Caller, request: wire.NameRequest) -> wire.Named:  # noqa: ARG002 - all may
        """Return what a document alone tells."""
        return answers.named(documents.parse(request.spec))

    def environments(self, caller: Caller) -> wire.Environments:  # noqa: ARG002 - all may
        """Return every environment that is there, is made, or failed."""
        found = self._describe(self._managers.use.list())
        return wire.Environments(root=self._root, environments=found)

    def environment(self, caller: Caller, word: str) -> wire.Environment:  # noqa: ARG002 - all may
        """Return one environment."""
        return self._describe((self._managers.use.show(self._name(word)),))[0]

    def _describe(self, infos: tuple[EnvironmentInfo, ...]) -> tuple[wire.Environment, ...]:
        builds: dict[str, list[BuildId]] = {}
        for build in sweep.all_builds(self._layout):
            builds.setdefault(build.partition("-")[0], []).append(build)
        return tuple(
            answers.environment(
                info,
                tuple(
                    build for stem, those in builds.items() if info.name.startswith(f"env-{stem}") for build in those
                ),
                records.read_last_use(self._layout, info.name),
            )
            for info in infos
        )

    def log(self, caller: Caller, word: str) -> wire.Text:  # noqa: ARG002 - all may
        """Return the log of the published build, or of the last failure."""
        name = self._name(word)
        return wire.Text(name=name, text=self._managers.use.log(name))

    def lockfile(self, caller: Caller, word: str) -> wire.Text:  # noqa: ARG002 - all may
        """Return the lockfile that the published build was made from, else the one in force."""
        name = self._name(word)
        build = publication.current(self._layout, name)
        if build is not None:
            try:
                return wire.Text(name=name, text=self._layout.build(build).lockfile.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError) as error:
                raise Corrupt(f"the lockfile of {name} cannot be read: {error}", hint="envmgr repair") from error
        text = records.read_lockfile(self._layout, name, self.settings.machine_class)
        if text is None:
            raise EnvironmentNotFound(f"there is no lockfile of {name}", hint="envmgr lock FILE finds one")
        return wire.Text(name=name, text=text)

    def spec(self, caller: Caller, word: str) -> wire.Text:  # noqa: ARG002 - all may
        """Return the text of the spec that the name was made from."""
        name = self._name(word)
        return wire.Text(name=name, text=self._stored_spec(name).source_text)

    def status(self, caller: Caller) -> wire.Status:
        """Return the daemon and its store at a glance; costs a look at every process."""
        infos = self._managers.use.list()
        return wire.Status(
            version=__version__,
            pid=os.getpid(),
            root=self._root,
            host=self._managers.use.context.host,
            mode=opening.owner(self._layout)[1],
            started_at=self._started_at,
            is_draining=self._operations.is_draining,
            role=caller.role,
            environments=sum(info.build_id is not None for info in infos),
            leases=sum(len(info.used_by) for info in infos),
            running=self._operations.running,
            queued=self._operations.queued,
            free_bytes=free_space(self._layout.root)[0],
            size_bytes=sum(info.size_bytes or 0 for info in infos),
        )

    # --------------------------------------------------------------------------------------------------- to change

    def remove(self, caller: Caller, word: str, mode: wire.RemoveMode, *, forget: bool) -> wire.Removed:
        """Remove an environment; waits for a build of it."""
        with self._told("remove", caller, word, mode=mode, forget=forget) as telling:
            self._only_admin(caller, "removes an environment")
            name = telling.name = self._name(word)
            self._operations.release(name)
            removed = self._managers.admin.remove(
                name, when_free=mode == "when-free", forget=forget, timeout_s=_REMOVAL_WAITS_S
            )
            telling.facts["build_id"] = removed.build_id
            return answers.removed(removed)

    def relock(self, caller: Caller, word: str, request: wire.RelockRequest) -> Flight:
        """Solve again, build and republish."""
        with self._told("relock", caller, word, is_told_later=True) as telling:
            self._only_admin(caller, "relocks an environment")
            name = telling.name = self._published(word)
            newest = None
            if request.exclude_newer is not None:
                try:
                    newest = OPTIONAL_TIME.from_toml(request.exclude_newer)
                except ValueError as error:
                    raise UsageError(f"exclude_newer: expected {OPTIONAL_TIME.name}") from error
            manager = self._managers.admin

            def work(report: Reporter, is_cancelled: Callable[[], bool]) -> wire.Result:
                return answers.replaced(
                    manager.relock(name, exclude_newer=newest, is_cancelled=is_cancelled, report=report)
                )

            return self._submit("relock", name, caller, work, newest)

    def repair(self, caller: Caller, word: str) -> Flight:
        """Build the same packages again and republish."""
        with self._told("repair", caller, word, is_told_later=True) as telling:
            self._only_admin(caller, "repairs an environment")
            name = telling.name = self._published(word)
            manager = self._managers.admin

            def work(report: Reporter, is_cancelled: Callable[[], bool]) -> wire.Result:
                return answers.replaced(manager.repair(name, is_cancelled=is_cancelled, report=report))

            return self._submit("repair", name, caller, work)

    def lock(self, caller: Caller, request: wire.LockRequest) -> Flight:
        """Find the lockfile of a spec."""
        with self._told("lock", caller, None, is_told_later=True) as telling:
            spec = documents.parse(request.spec)
            telling.name = spec.name
            manager = self._manager(caller)
            policy.check(spec, manager.context.settings)

            def work(report: Reporter, is_cancelled: Callable[[], bool]) -> wire.Result:
                text = manager.lock(spec, is_cancelled=is_cancelled, report=report)
                digest = lockfile.parse(text, manager.context.settings.subdir).digest
                return wire.LockResult(name=spec.name, lock_digest=digest, text=text)

            rules = caller.role if spec.pip else None
            is_given_up = request.cancel_when_unwanted
            return self._submit("lock", spec.name, caller, work, rules, cancel_when_unwanted=is_given_up)

    def collect(self, caller: Caller, request: wire.CollectRequest) -> Flight:
        """Free what the settings' limits, or the request's, say."""
        with self._told("collect", caller, None, is_told_later=True):
            self._only_admin(caller, "frees what no environment needs")
            manager = self._managers.admin

            def work(_report: Reporter, _is_cancelled: Callable[[], bool]) -> wire.Result:
                found = manager.collect(dry_run=request.dry_run)
                collected = tuple(
                    wire.Collected(path=str(it.path), name=None, reason=it.reason, size_bytes=it.size_bytes)
                    for it in found
                )
                return wire.CollectResult(dry_run=request.dry_run, collected=collected)

            return self._submit("collect", None, caller, work, request)

    def set_pinned(self, caller: Caller, word: str, *, is_pinned: bool) -> wire.Pinned:
        """Pin or unpin an environment against collection."""
        with self._told("pin" if is_pinned else "unpin", caller, word) as telling:
            self._only_admin(caller, "pins an environment")
            name = telling.name = self._name(word)
            self._managers.use.pin(name, is_pinned=is_pinned)
            return wire.Pinned(name=name, is_pinned=is_pinned)

    def aliases(self, caller: Caller) -> wire.Aliases:  # noqa: ARG002 - all may
        """Return every alias."""
        return wire.Aliases(aliases={alias: name for alias, name in self._managers.use.aliases().items()})

    def set_alias(self, caller: Caller, alias: str, request: wire.AliasRequest) -> wire.Aliases:
        """Let an alias stand for an environment, and return every alias."""
        with self._told("alias", caller, request.environment, alias=alias) as telling:
            checked = names.alias(alias)
            name = telling.name = self._name(request.environment)
            self._check_alias(caller, checked, name, is_move=request.move)
            self._managers.use.set_alias(checked, name, move=request.move)
            return self.aliases(caller)

    def remove_alias(self, caller: Caller, alias: str) -> wire.Aliases:
        """Drop an alias, and return those that are left."""
        with self._told("unalias", caller, None, alias=alias) as telling:
            self._only_admin(caller, "drops an alias")
            telling.name = self._managers.use.remove_alias(names.alias(alias))
            return self.aliases(caller)

    # -------------------------------------------------------------------------------------------------- operations

    def operations(self, caller: Caller) -> wire.Operations:  # noqa: ARG002 - all may
        """Return every operation that is kept, without the text of a lockfile."""
        return wire.Operations(operations=tuple(_short(flight.snapshot()) for flight in self._operations.all()))

    def operation(self, caller: Caller, id: str) -> Flight:  # noqa: A002, ARG002 - its id; all may
        """Return one operation."""
        flight = self._operations.find(id)
        if flight is None:
            raise EnvironmentNotFound(
                "there is no operation of that id", hint="one that ended is kept for some minutes; ask again for it"
            )
        return flight

    def cancel(self, caller: Caller, id: str) -> Flight:  # noqa: A002
        """Tell an operation to stop."""
        with self._told("cancel", caller, None, operation=id[:64]) as telling:
            flight = self.operation(caller, id)
            telling.name = flight.name
            if not flight.is_only_of(caller):
                self._only_admin(caller, "cancels what another user asked for")
            flight.cancel(caller)
            return flight

    def drain(self, timeout_s: float) -> None:
        """Take no operation any more, and see those that are there to their end."""
        self._operations.drain(timeout_s)

    def reload(self) -> None:
        """Read the settings again; where they are wrong, the old ones stay and the error is raised."""
        if self._reread is None:
            return
        settings = self._reread()
        self._managers = _managers(Manager(replace(self._managers.use.context, settings=settings)))
        self._operations.set_limits(
            max_running=settings.max_builds,
            max_waiting=settings.max_waiting,
            max_waiting_per_caller=settings.max_waiting_per_user,
        )

    # ------------------------------------------------------------------------------------------------------- inside

    def _manager(self, caller: Caller) -> Manager:
        return self._managers.admin if caller.role == "admin" else self._managers.use

    def _only_admin(self, caller: Caller, what: str) -> None:
        if caller.role != "admin":
            raise PermissionRefused(
                f"only an administrator {what}; {caller.user} is none",
                hint="root, the store's owner and the members of the group in setting admin_group are",
                rule="admin",
                setting="admin_group",
            )

    def _check_alias(self, caller: Caller, alias: Alias, name: EnvName, *, is_move: bool) -> None:
        held_by = ready.resolve_alias(self._root, alias)
        if held_by in (None, name):
            return
        if not is_move:
            raise publication.alias_taken(alias, EnvName(str(held_by)), name)
        self._only_admin(caller, f"moves an alias ({alias} stands for {held_by})")

    def _name(self, word: str) -> EnvName:
        """Return the name that a name or an alias stands for."""
        name = ready.resolve_alias(self._root, word)
        if name is None:
            raise EnvironmentNotFound(f"there is no environment {word!r} in {self._root}", hint="envmgr list")
        return name

    def _published(self, word: str) -> EnvName:
        name = self._name(word)
        if publication.current(self._layout, name) is None:
            raise EnvironmentNotFound(f"{name} is not in {self._root}", hint="envmgr create FILE makes it")
        return name

    def _stored_spec(self, name: EnvName) -> Spec:
        spec = records.read_spec(self._layout, name)
        if spec is None:
            raise EnvironmentNotFound(f"{name} is not in {self._root}", hint="create it from its spec")
        return spec

    def _submit(
        self, kind: wire.Kind, name: EnvName | None, caller: Caller, work: Work, *details: Hashable,
        cancel_when_unwanted: bool = False,
    ) -> Flight:  # fmt: skip
        return self._operations.submit(
            kind, (kind, name, *details), name, caller, work, cancel_when_unwanted=cancel_when_unwanted
        )

    @contextlib.contextmanager
    def _told(
        self, what: str, caller: Caller, name: str | None, *, is_told_later: bool = False, **facts: object
    ) -> Iterator[_Telling]:
        """Tell the observer what became of the block; of one that ends with an operation only what went wrong."""
        telling = _Telling(name, dict(facts))
        begun = self._clock.monotonic()
        error: BaseException | None = None
        try:
            yield telling
        except BaseException as raised:
            error = raised
            raise
        finally:
            if error is not None or not is_told_later:
                took_s = self._clock.monotonic() - begun
                self._observer.changed(
                    caller, what, telling.name, _outcome(error), took_s, **telling.facts, **_code(error)
                )

    def _ended(self, flight: Flight) -> None:
        """Tell the observer of an operation that ended."""
        operation = flight.snapshot()
        facts: dict[str, object] = {"operation": flight.id, "waiters": operation.waiters, **_code(flight.error)}
        facts["phases_s"] = dict(flight.phases_s)
        result = operation.result
        build_id = None
        if isinstance(result, wire.EnsureResult):
            build_id = result.ready.build_id
            facts["was_built"] = result.was_built
        elif isinstance(result, wire.ReplaceResult):
            build_id = result.build_id
            facts["was_built"] = True
        if build_id is not None and flight.name is not None:
            facts["build_id"] = build_id
            with contextlib.suppress(EnvmgrError, OSError):
                record = records.read_record(self._layout, flight.name, BuildId(build_id))
                facts |= {"downloaded_bytes": record.downloaded_bytes, "size_bytes": record.size_bytes}
        took_s = (operation.finished_at or operation.created_at) - operation.created_at
        self._observer.changed(flight.by, flight.kind, flight.name, _outcome(flight.error), max(0.0, took_s), **facts)


@dataclass(slots=True)
class _Telling:
    """What is known so far of what will be told."""

    name: str | None
    facts: dict[str, object]


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "succeeded"
    if isinstance(error, (PermissionRefused, Busy)):
        return "refused"
    return "cancelled" if isinstance(error, Cancelled) else "failed"


def _code(error: BaseException | None) -> dict[str, object]:
    if error is None:
        return {}
    return {"code": error.code if isinstance(error, EnvmgrError) else EnvmgrError.code}


def _creator(caller: Caller) -> int:
    """Return what `records.write_creator` keeps of a caller: his uid, or for a token a negative number of its name."""
    return -1 - zlib.crc32(caller.user.encode()) if caller.uid is None else caller.uid


def _short(operation: wire.Operation) -> wire.Operation:
    if isinstance(operation.result, wire.LockResult):
        return replace(operation, result=replace(operation.result, text=""))
    return operation
