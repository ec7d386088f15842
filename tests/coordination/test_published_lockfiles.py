"""Lockfiles in a real ZooKeeper: whole or not there, whatever is lost, left behind or damaged."""

from __future__ import annotations

import random
import threading
from dataclasses import replace

import pytest
from fakes.worlds import name_of
from link_proxy import LinkProxy

from envmgr import lockfile
from envmgr.coordination.zookeeper import tree
from envmgr.coordination.zookeeper.claims import Claims
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.lockfiles import LARGEST_PARTS, LARGEST_TEXT_BYTES, PART_BYTES, Lockfiles
from envmgr.coordination.zookeeper.session import Session
from envmgr.errors import ClaimLost, CoordinatorUnavailable, Corrupt, LockfileTooLarge, Unsatisfiable
from envmgr.wire.tree import LARGEST_NODE_BYTES, Manifest, decode, encode

pytestmark = pytest.mark.slow  # a real ZooKeeper
NAME = name_of("x")
CLASS = "linux-64"
TEXT = lockfile.write([], subdir=CLASS, channels=["https://channel.invalid/demo"])
CLAIM = tree.solve_claim(NAME, CLASS)


@pytest.fixture
def files(session: Session) -> Lockfiles:
    return Lockfiles(session, "here")


def padded(size_bytes: int) -> str:
    """Return a lockfile with so many bytes of comment that hardly compresses."""
    digits = random.Random(size_bytes).randbytes(size_bytes // 2).hex()
    return TEXT + "".join(f"# {digits[start : start + 1000]}\n" for start in range(0, len(digits), 1000))


def children(session: Session) -> list[str]:
    return list(session.children(tree.generations(NAME, CLASS)))


def test_a_large_one_travels_in_parts(session: Session, files: Lockfiles) -> None:
    """No node is larger than ZooKeeper takes, and the text comes back byte for byte."""
    text = padded(4_000_000)
    with Claims(session, "here").acquire(CLAIM) as claim:
        made = files.publish(NAME, CLASS, 1, text, claim)
    found = files.in_force(NAME, CLASS)
    assert found == made
    assert found is not None
    assert found.text == text
    manifest = files.manifest(NAME, CLASS)
    assert manifest is not None
    assert manifest.parts > 2
    assert (manifest.token, manifest.published_by) == (claim.token, "here")
    assert PART_BYTES <= LARGEST_NODE_BYTES


def test_what_is_over_the_limit(session: Session, files: Lockfiles) -> None:
    """It is refused before anything is written, with both sizes; the connection stays."""
    with Claims(session, "here").acquire(CLAIM) as claim:
        for text, limit in (
            (padded(3 * PART_BYTES * LARGEST_PARTS), PART_BYTES * LARGEST_PARTS),
            ("#" * (LARGEST_TEXT_BYTES + 1), LARGEST_TEXT_BYTES),
        ):
            with pytest.raises(LockfileTooLarge) as caught:
                files.publish(NAME, CLASS, 1, text, claim)
            assert caught.value.fields["limit_bytes"] == limit
        assert children(session) == []
        files.publish(NAME, CLASS, 1, TEXT, claim)


def test_parts_of_dead_solvers_go(session: Session, files: Lockfiles) -> None:
    """What a solver left that died before its manifest is deleted by the next publication; what is published stays."""
    with Claims(session, "here").acquire(CLAIM) as claim:
        first = files.publish(NAME, CLASS, 1, TEXT, claim)
        session.create(tree.part(NAME, CLASS, "dead", 0), b"left")
        session.create(tree.part(NAME, CLASS, "dead", 1), b"behind")
        files.publish(NAME, CLASS, 2, padded(1000), claim)
    assert [word for word in children(session) if word.startswith("parts-")] == sorted(
        f"parts-{_manifest(session, number).parts_in}" for number in (1, 2)
    )
    assert files.read(_manifest(session, 1)) == first


def _manifest(session: Session, number: int) -> Manifest:
    path = tree.manifest(NAME, CLASS, number)
    node = session.get(path)
    assert node is not None
    return decode(Manifest, node.data, path)


def test_who_comes_second_takes_the_first(session: Session, files: Lockfiles) -> None:
    """A generation that is there is never written again; what was prepared for it goes."""
    with Claims(session, "here").acquire(CLAIM) as claim:
        first = files.publish(NAME, CLASS, 1, TEXT, claim)
        assert files.publish(NAME, CLASS, 1, padded(1000), claim) == first
    assert len(children(session)) == 2


def test_an_answer_that_is_lost_is_read_again(endpoint: Endpoint) -> None:
    """The connection breaks when the server has the transaction: it was done, and is found; nobody writes twice."""
    with LinkProxy(endpoint.servers[0]) as link:
        session = Session(replace(endpoint, servers=(link.address,), session_s=10.0))
        session.start()
        try:
            files = Lockfiles(session, "here")
            with Claims(session, "here").acquire(CLAIM) as claim:
                # The answer to the transaction, and whatever comes after it, does not come back.
                link.silence_after(claim.node.encode(), "down")
                mender = threading.Timer(1.0, link.break_all)
                mending = threading.Timer(1.2, link.mend)
                mender.start()
                mending.start()
                made = files.publish(NAME, CLASS, 1, TEXT, claim, wait_s=20.0)
                mender.join()
                mending.join()
            assert files.newest(NAME, CLASS) == made
            assert len(children(session)) == 2
        finally:
            session.close()


def test_without_an_answer_at_all(endpoint: Endpoint) -> None:
    """Nobody knows whether it was published: that is said, within the time that was given."""
    with LinkProxy(endpoint.servers[0]) as link:
        session = Session(replace(endpoint, servers=(link.address,), session_s=5.0))
        session.start()
        try:
            files = Lockfiles(session, "here")
            with Claims(session, "here").acquire(CLAIM) as claim:
                link.silence_after(claim.node.encode(), "down")
                with pytest.raises(CoordinatorUnavailable) as caught:
                    files.publish(NAME, CLASS, 1, TEXT, claim, wait_s=0.5)
                assert not isinstance(caught.value, ClaimLost)
                link.mend()
                assert files.newest(NAME, CLASS, timeout_s=20.0) is not None
        finally:
            session.close()


def test_a_publication_forgets_the_failure(session: Session, files: Lockfiles) -> None:
    """In one step with the manifest; `clear_failure` does it for an administrator, on every class."""
    with Claims(session, "here").acquire(CLAIM) as claim:
        files.fail(NAME, CLASS, 1, Unsatisfiable("no"), claim)
        files.fail(NAME, CLASS, 1, Unsatisfiable("no, again"), claim)
        files.fail(NAME, "linux-64+cuda12", 1, Unsatisfiable("no"), claim)
        failure = files.failure(NAME, CLASS, 1)
        assert failure is not None
        assert (failure.error["message"], failure.host) == ("no", "here")
        assert [(info.machine_class, info.error is None) for info in files.generations(NAME)] == [
            (CLASS, False), ("linux-64+cuda12", False),
        ]  # fmt: skip
        files.publish(NAME, CLASS, 1, TEXT, claim)
    assert files.failure(NAME, CLASS, 1) is None
    files.clear_failure(NAME)
    assert [(info.machine_class, info.generation, info.error) for info in files.generations(NAME)] == [(CLASS, 1, None)]


@pytest.mark.parametrize("damage", ["a part is gone", "a part is another", "a part is no part"])
def test_what_is_damaged_is_said_to_be(session: Session, files: Lockfiles, damage: str) -> None:
    """A text that is not what the manifest says is never installed."""
    with Claims(session, "here").acquire(CLAIM) as claim:
        files.publish(NAME, CLASS, 1, TEXT, claim)
        other = files.publish(NAME, CLASS, 2, padded(1000), claim)
    path = tree.part(NAME, CLASS, _manifest(session, 1).parts_in, 0)
    replacement = session.get(tree.part(NAME, CLASS, _manifest(session, 2).parts_in, 0))
    assert replacement is not None
    if damage == "a part is gone":
        session.delete(path)
    else:
        session.put(path, replacement.data if damage == "a part is another" else b"nonsense")
    with pytest.raises(Corrupt, match="damaged"):
        files.read(_manifest(session, 1))
    assert files.in_force(NAME, CLASS) == other


@pytest.mark.parametrize(
    "change",
    [
        {"parts_in": "../../../../elsewhere"}, {"parts_in": ".."}, {"parts": 10**6}, {"size_bytes": 1 << 40},
        {"name": "env-0000000000000000"}, {"generation": 2}, {"machine_class": "linux-64+other"},
    ],
)  # fmt: skip
def test_a_manifest_that_no_host_of_ours_wrote(session: Session, files: Lockfiles, change: dict[str, object]) -> None:
    """It is damaged: it makes no path and unpacks nothing without end; the next generation is made all the same."""
    with Claims(session, "here").acquire(CLAIM) as claim:
        files.publish(NAME, CLASS, 1, TEXT, claim)
        session.put(tree.manifest(NAME, CLASS, 1), encode(replace(_manifest(session, 1), **change)))
        session.create(f"{tree.generations(NAME, CLASS)}/\u00b2", b"")  # a digit, in the words of Unicode
        with pytest.raises(Corrupt):
            files.in_force(NAME, CLASS)
        assert [info.generation for info in files.generations(NAME)] == [1]
        files.publish(NAME, CLASS, 2, TEXT, claim)
    found = files.in_force(NAME, CLASS)
    assert found is not None
    assert found.generation == 2


def test_no_credentials_are_published(session: Session, files: Lockfiles) -> None:
    """A lockfile that somebody brought, and the words of a failure, come into the tree without passwords."""
    with Claims(session, "here").acquire(CLAIM) as claim:
        hint = "see http://b.invalid/?token=geheim"
        error = Unsatisfiable("http://ada:geheim@channel.invalid/x", hint=hint, url="http://a:geheim@b")
        files.fail(NAME, CLASS, 1, error, claim)
        failure = str(files.failure(NAME, CLASS, 1))
        assert "channel.invalid" in failure
        assert "geheim" not in failure
        files.publish(NAME, CLASS, 1, f"{TEXT}# http://ada:geheim@channel.invalid/x\n", claim)
    found = files.in_force(NAME, CLASS)
    assert found is not None
    assert "geheim" not in found.text
    assert found.digest == lockfile.parse(TEXT, CLASS).digest
