"""remove, relock, repair, verify, collect and doctor, with processes that use what is removed and replaced."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes.backend import Orders
from fakes.clock import FakeClock
from fakes.processes import Forked, gates
from fakes.worlds import World, make_world, observed, open_descriptors, spec_of

from envmgr import ready
from envmgr.errors import AliasTaken, Corrupt, EnvironmentInUse, EnvironmentNotFound, Unsatisfiable, UsageError
from envmgr.fsio import TEMPORARY, Step
from envmgr.names import Alias, BuildId
from envmgr.store import locks, publication, records, sweep

SPEC = spec_of("numpy")
OTHER = spec_of("numpy", "zlib")
USER = "import sys; from envmgr import ready; l = ready.acquire(*sys.argv[1:]); print(l.prefix, flush=True); input()"


@pytest.fixture(autouse=True)
def _no_descriptor_leaks() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


def create(world: World, **options: object) -> str:
    ensured = world.manager().ensure(SPEC, **options)  # type: ignore[arg-type]
    ensured.lease.close()
    return ensured.lease.build_id


@contextmanager
def used(world: World) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Run a process that leases the environment until the block ends."""
    with subprocess.Popen(
        [sys.executable, "-c", USER, str(world.root), SPEC.name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.communicate("\n")
        assert process.returncode == 0


def is_empty(world: World) -> bool:
    return not os.listdir(world.layout.builds) and not os.listdir(world.layout.trash)


def test_remove_takes_the_name_and_the_files(world: World) -> None:
    """What nobody uses is gone on return; its lockfile stays, so that create makes the same again; forget drops it."""
    create(world)
    text = world.manager().lock(SPEC)
    assert world.manager().remove(SPEC.name).is_deleted
    assert is_empty(world)
    with pytest.raises(EnvironmentNotFound):
        world.manager().remove(SPEC.name)
    Orders(world.orders).say("version", "2.0")
    create(world)
    assert world.manager().lock(SPEC) == text
    world.manager().remove(SPEC.name, forget=True)
    assert world.manager().list() == ()
    with pytest.raises(EnvironmentNotFound):
        world.manager().remove(SPEC.name, forget=True)
    create(world)
    assert world.manager().lock(SPEC) != text


def test_remove_of_what_is_used_names_the_users(world: World) -> None:
    """An environment in use stays, and the error names each process and the way to remove it all the same."""
    create(world)
    with used(world) as (process, prefix):
        with pytest.raises(EnvironmentInUse, match=str(process.pid)) as refused:
            world.manager().remove(SPEC.name)
        assert [user.pid for user in refused.value.users] == [process.pid]
        assert "--when-free" in str(refused.value.hint)
        assert prefix.is_dir()
        assert world.manager().show(SPEC.name).used_by[0].pid == process.pid
    assert world.manager().remove(SPEC.name).is_deleted


def test_remove_by_a_process_that_uses_it_names_itself(world: World) -> None:
    """A process that tries to remove what it has leased is told that it is the user."""
    ensured = world.manager().ensure(SPEC)
    with pytest.raises(EnvironmentInUse, match=str(os.getpid())):
        world.manager().remove(SPEC.name)
    ensured.lease.close()


def test_when_free_takes_the_name_now_and_the_files_later(world: World) -> None:
    """The name goes at once, the files stay while the last user lives, and a later arrival deletes them."""
    create(world)
    with used(world) as (process, prefix):
        removed = world.manager().remove(SPEC.name, when_free=True)
        assert not removed.is_deleted
        assert [user.pid for user in removed.users] == [process.pid]
        assert ready.resolve(str(world.root), SPEC.name) is None
        assert world.manager().collect() == ()
        assert (prefix / "share" / "numpy").read_text(encoding="utf-8") == "numpy 1.0\n"
    assert [item.path for item in world.manager().collect()] == [prefix.parent.parent]
    assert is_empty(world)


def test_remove_and_create_while_the_old_one_is_in_use(world: World) -> None:
    """The new environment is another build at another path; the old one goes when its user ends."""
    old = create(world)
    with used(world) as (_, prefix):
        world.manager().remove(SPEC.name, when_free=True)
        new = create(world)
        assert new != old
        assert prefix.is_dir()
        assert world.manager().verify(SPEC.name) == ()
    world.manager().collect()
    assert sweep.all_builds(world.layout) == (new,)


def test_nobody_gets_an_environment_that_is_being_removed(world: World) -> None:
    """At every point of a removal a new user gets the whole environment or none; never one that is then deleted."""
    create(world)
    seen: list[tuple[Step, str, bool | None]] = []

    def look() -> bool:
        lease = ready.acquire(str(world.root), SPEC.name, patience_s=0.0)
        return lease is not None

    def observer(step: Step, point: str) -> None:
        try:
            seen.append((step, point, Forked(look).result()))
        except EnvironmentInUse:
            seen.append((step, point, None))

    with observed(observer):
        world.manager().remove(SPEC.name)
    by_point = {(step, point): result for step, point, result in seen}
    assert by_point[Step.UNPUBLISH, "before"] is None
    assert by_point[Step.UNPUBLISH, "changed"] is False
    assert by_point[Step.TRASH, "changed"] is False


def test_a_user_that_comes_too_late_for_the_name(world: World) -> None:
    """A reader that had looked before the removal and locks after it gets nothing, instead of a dying build."""
    create(world)
    with gates(2) as (looked, removed):

        def read() -> bool:
            left = [None]

            def hook(event: str, arguments: tuple[object, ...]) -> None:
                if event == "fcntl.flock" and left:
                    left.pop()
                    looked.open()
                    removed.wait()

            sys.addaudithook(hook)
            return ready.acquire(str(world.root), SPEC.name) is None

        reader = Forked(read)
        looked.wait()
        world.manager().remove(SPEC.name)
        removed.open()
        assert reader.result()


def test_an_alias_outlives_its_environment(world: World) -> None:
    """Removing an environment leaves its alias, which then leads nowhere; create finds it again; doctor tells."""
    create(world, alias=Alias("training"))
    world.manager().remove(SPEC.name)
    assert ready.resolve(str(world.root), "training") is None
    assert any(finding.check == "aliases" for finding in world.manager().examine())
    build = create(world)
    assert ready.resolve(str(world.root), "training") == (SPEC.name, build)


def test_a_taken_alias_is_refused_before_anything_is_built(world: World) -> None:
    """`create --alias` of a taken alias costs no build; with --move it names the new environment."""
    create(world, alias=Alias("training"))
    with pytest.raises(AliasTaken):
        world.manager().ensure(OTHER, alias=Alias("training"))
    assert len(world.builds_begun()) == 1
    world.manager().ensure(OTHER, alias=Alias("training"), move_alias=True).lease.close()
    assert world.manager().aliases() == {"training": OTHER.name}


def test_relock_under_a_running_user(world: World, orders: Orders) -> None:
    """A relock publishes a new build of new packages; the user keeps the old one, which goes with it."""
    old = create(world)
    orders.say("version", "2.0")
    with used(world) as (_, prefix):
        replaced = world.manager().relock(SPEC.name)
        assert replaced.is_new
        assert replaced.old_build_id == old
        assert (prefix / "share" / "numpy").read_text(encoding="utf-8") == "numpy 1.0\n"
        assert Path(world.layout.publication(SPEC.name), "share", "numpy").read_text("utf-8") == "numpy 2.0\n"
    assert not world.manager().relock(SPEC.name).is_new
    assert sweep.all_builds(world.layout) == (replaced.record.build_id,)
    orders.say("version", "3.0")
    world.manager().remove(SPEC.name)
    create(world)
    assert Path(world.layout.publication(SPEC.name), "share", "numpy").read_text("utf-8") == "numpy 2.0\n"


def test_a_failed_relock_is_nobody_elses_failure(world: World, orders: Orders) -> None:
    """After a relock that failed, the environment is ready as before, and create after a remove builds it."""
    create(world)
    orders.fail(Unsatisfiable("nothing is that old"))
    with pytest.raises(Unsatisfiable):
        world.manager().relock(SPEC.name, exclude_newer="2020-01-01T00:00:00Z")
    orders.withdraw("fail")
    assert world.manager().show(SPEC.name).failure is None
    world.manager().remove(SPEC.name)
    create(world)


def test_remove_of_a_failed_one_drops_its_failure(world: World, orders: Orders) -> None:
    """What failed is listed with its label and log, and remove takes it off the list."""
    orders.fail(Unsatisfiable("no such package"))
    with pytest.raises(Unsatisfiable):
        create(world)
    (info,) = world.manager().list()
    assert (info.state, info.label) == ("failed", SPEC.label)
    assert "unsatisfiable: no such package" in world.manager().log(SPEC.name)
    world.manager().remove(SPEC.name)
    assert world.manager().list() == ()


def test_a_failed_relock_changes_nothing(world: World, orders: Orders) -> None:
    """When a relock fails, the old environment and the old lockfile stay, and nothing is left of the try."""
    old = create(world)
    text = world.manager().lock(SPEC)
    orders.say("version", "2.0")
    orders.fail(Corrupt("as ordered"))
    with pytest.raises(Corrupt):
        world.manager().relock(SPEC.name)
    assert publication.current(world.layout, SPEC.name) == old
    assert world.manager().lock(SPEC) == text
    assert sweep.all_builds(world.layout) == (old,)


def test_a_relock_whose_name_was_changed_meanwhile(world: World, orders: Orders) -> None:
    """When somebody without the lock takes the name away meanwhile, the relock says so and leaves nothing."""
    old = create(world)
    orders.say("version", "2.0")

    def observer(step: Step, point: str) -> None:
        if (step, point) == (Step.RECORD, "before"):
            publication.unpublish(world.layout, SPEC.name, BuildId(old))

    with observed(observer), pytest.raises(Exception, match="changed by somebody else"):
        world.manager().relock(SPEC.name)
    assert is_empty(world)


def test_repair_makes_the_same_again(world: World, orders: Orders) -> None:
    """A repair replaces a damaged build by a new one of the same packages, under a running user; verify tells both."""
    old = create(world)
    orders.say("version", "2.0")
    with used(world) as (_, prefix):
        (prefix / "share" / "numpy").write_text("damaged", encoding="utf-8")
        damages = world.manager().verify(SPEC.name)
        assert [(damage.path, damage.names) for damage in damages] == [(prefix / "share" / "numpy", (SPEC.name,))]
        replaced = world.manager().repair(SPEC.name)
        assert replaced.old_build_id == old
        assert world.manager().verify(SPEC.name) == ()
        assert prefix.is_dir()
        assert Path(world.layout.publication(SPEC.name), "share", "numpy").read_text("utf-8") == "numpy 1.0\n"


def test_repair_after_a_relock_that_was_cut_off(world: World, orders: Orders) -> None:
    """A relock that ends between its lockfile and its publication leaves a repair the packages that are published."""
    create(world)
    orders.say("version", "2.0")

    def observer(step: Step, point: str) -> None:
        if (step, point) == (Step.REPUBLISH, "before"):
            raise RuntimeError("cut off")

    with observed(observer), pytest.raises(RuntimeError, match="cut off"):
        world.manager().relock(SPEC.name)
    world.manager().repair(SPEC.name)
    assert Path(world.layout.publication(SPEC.name), "share", "numpy").read_text("utf-8") == "numpy 1.0\n"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["the build", "the lease", "the record", "the lockfile"])
def test_what_was_deleted_by_hand_is_repaired(world: World, what: str) -> None:
    """A published build that somebody damaged is told by every command, and repaired; or removed."""
    build = BuildId(create(world))
    paths = world.layout.build(build)
    if what == "the build":
        subprocess.run(["rm", "-rf", paths.directory], check=True)
    else:
        {"the lease": paths.lease, "the record": paths.record, "the lockfile": paths.lockfile}[what].unlink()
    world.manager().collect()
    world.manager().list()
    world.manager().examine()
    if what != "the lockfile":
        with pytest.raises(Corrupt):
            create(world)
    world.manager().repair(SPEC.name)
    assert world.manager().verify(SPEC.name) == ()
    assert len(os.listdir(world.layout.builds)) == 1
    create(world)
    subprocess.run(
        ["rm", "-rf", world.layout.build(publication.published(world.layout)[SPEC.name]).directory], check=True
    )
    assert world.manager().remove(SPEC.name).is_deleted
    assert is_empty(world)


def test_verify_names_all_who_share_the_damage(world: World) -> None:
    """Damage to bytes that environments share is told with the names of all of them."""
    create(world)
    world.manager().ensure(OTHER).lease.close()
    one, two = (
        world.layout.build(publication.published(world.layout)[spec.name]).prefix(spec.name) / "share" / "numpy"
        for spec in (SPEC, OTHER)
    )
    two.unlink()
    two.hardlink_to(one)
    one.write_text("damaged", encoding="utf-8")
    for spec in (SPEC, OTHER):
        (damage,) = world.manager().verify(spec.name)
        assert damage.names == tuple(sorted((SPEC.name, OTHER.name)))


@pytest.mark.parametrize("damage", [b"\xff\xfe\x00", b"[", b"{}", b'{"name": "numpy", "paths_data": {"paths": [1]}}'])
def test_verify_tells_damaged_package_records(world: World, damage: bytes) -> None:
    """A package's own record that cannot be read is damage, not a crash."""
    create(world)
    prefix = world.layout.build(publication.published(world.layout)[SPEC.name]).prefix(SPEC.name)
    next((prefix / "conda-meta").glob("*.json")).write_bytes(damage)
    assert world.manager().verify(SPEC.name)


def _pip_package(world: World, row: bytes) -> Path:
    """Put a distribution with one file, as uv installs it, into the environment; return the file's path."""
    create(world)
    prefix = world.layout.build(publication.published(world.layout)[SPEC.name]).prefix(SPEC.name)
    info = prefix / "lib" / "python3.11" / "site-packages" / "a-1.dist-info"
    info.mkdir(parents=True)
    (info / "INSTALLER").write_text("uv\n", encoding="ascii")
    (info / "RECORD").write_bytes(row + b"a-1.dist-info/RECORD,,\n")
    (info.parent / "a.py").write_bytes(b"x = 1\n")
    return info.parent / "a.py"


def test_verify_compares_the_files_of_pip(world: World) -> None:
    """A file of the pip section is compared with the hash in its RECORD."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"x = 1\n").digest()).rstrip(b"=")
    path = _pip_package(world, b"a.py,sha256=%b,6\n" % digest)
    assert world.manager().verify(SPEC.name) == ()
    path.write_bytes(b"x = 2\n")
    assert [(damage.path, damage.message) for damage in world.manager().verify(SPEC.name)] == [
        (path, "was changed (of a-1.dist-info)")
    ]
    path.unlink()
    assert "is missing" in world.manager().verify(SPEC.name)[0].message


@pytest.mark.parametrize(
    "row", [b"\xff,sha256=x,1\n", b"a.py,sha256=!,1\n", b"a.py,sha256=x,1\n", b"a\0.py,sha256=eA,\n"]
)
def test_verify_tells_damaged_lists_of_pip(world: World, row: bytes) -> None:
    """A RECORD of the pip section that cannot be read is damage, not a crash."""
    _pip_package(world, row)
    assert world.manager().verify(SPEC.name)


def test_verify_tells_a_damaged_lockfile(world: World) -> None:
    """A build's lockfile that cannot be read, or is another one, is damage."""
    create(world)
    path = world.layout.build(publication.published(world.layout)[SPEC.name]).lockfile
    text = path.read_text("utf-8")
    for damaged in ("]", text.replace("1.0", "3.0")):
        path.write_text(damaged, encoding="utf-8")
        assert world.manager().verify(SPEC.name)


def test_doctor_names_who_holds_a_lease_exclusively(world: World) -> None:
    """A process that locked a lease by mistake keeps all others out, and doctor names it."""
    build = BuildId(create(world))
    with gates(2) as (held, end):

        def hold() -> None:
            fd = os.open(world.layout.build(build).lease, os.O_RDONLY)
            fcntl.flock(fd, fcntl.LOCK_EX)
            held.open()
            end.wait()

        holder = Forked(hold)
        held.wait()
        (finding,) = (found for found in world.manager().examine() if found.check == "leases")
        assert str(holder.pid) in finding.message
        assert str(world.layout.build(build).lease) in finding.message
        end.open()
        holder.result()
    assert [found.status for found in world.manager().examine() if found.check == "leases"] == ["ok"]


def test_collect_says_what_it_would_do(tmp_path: Path) -> None:
    """A dry run names what a run frees, and frees nothing; young temporary files and used builds are never named."""
    world = make_world(tmp_path)
    create(world)
    used_lease = sweep.begin_build(world.layout, OTHER.name, OTHER.digest)
    left = sweep.begin_build(world.layout, OTHER.name, OTHER.digest)
    left.close()
    (world.layout.trash / "old").mkdir()
    (world.layout.envs / f"{TEMPORARY}young").touch()
    planned = world.manager().collect(dry_run=True)
    assert {item.path for item in planned} == {world.layout.build(left.build_id).directory, world.layout.trash / "old"}
    assert all(item.path.exists() for item in planned)
    assert {item.path for item in world.manager().collect()} == {item.path for item in planned}
    later = World(world.layout, world.orders, FakeClock(2e9)).manager()
    assert [item.path.name for item in later.collect()] == [f"{TEMPORARY}young"]
    used_lease.close()


def test_two_collections_at_once(world: World) -> None:
    """A collection that is overtaken by another one finishes."""
    for number in range(3):
        (world.layout.trash / str(number)).mkdir()
    left = [lambda: world.manager().collect()]

    def observer(step: Step, point: str) -> None:
        if (step, point) == (Step.DELETE, "before") and left:
            assert len(Forked(left.pop()).result()) == 3

    with observed(observer):
        world.manager().collect()
    assert os.listdir(world.layout.trash) == []


def test_collect_waits_for_nobody(world: World) -> None:
    """What another process is busy with is left for the next time."""
    sweep.begin_build(world.layout, SPEC.name, SPEC.digest).close()
    with locks.try_lock(world.layout, SPEC.name) as is_held:
        assert is_held
        assert Forked(lambda: world.manager().collect()).result() == ()
    assert len(world.manager().collect()) == 1


def test_pins_need_an_environment(world: World) -> None:
    """Only what is known can be pinned; a pin shows and goes."""
    with pytest.raises(EnvironmentNotFound):
        world.manager().pin(SPEC.name, is_pinned=True)
    create(world)
    for is_pinned in (True, False):
        world.manager().pin(SPEC.name, is_pinned=is_pinned)
        assert world.manager().show(SPEC.name).is_pinned == is_pinned


@pytest.mark.parametrize("word", ["", ".", "..", "a/b", "env-12", "ENV-0123456789ABCDEF", "x" * 129, "a\n", "é", "-x"])
def test_hostile_words_touch_no_path(world: World, word: str) -> None:
    """What may be neither a name nor an alias is a `UsageError` before any path is made of it."""
    with pytest.raises(UsageError):
        ready.resolve_alias(str(world.root), word)


def test_list_survives_one_damaged_environment(world: World) -> None:
    """One damaged record, or one of a newer envmgr, does not hide the other environments; doctor tells it."""
    create(world)
    world.manager().ensure(OTHER).lease.close()
    record = world.layout.build(publication.published(world.layout)[SPEC.name]).record
    for text in ("{", '{"format": 99}'):
        record.write_text(text, encoding="utf-8")
        states = {info.name: info.state for info in world.manager().list()}
        assert states == {SPEC.name: "damaged", OTHER.name: "ready"}
        assert any(found.check == "records" and found.status == "error" for found in world.manager().examine())
    assert records.read_failure(world.layout, SPEC.name) is None
