"""What is read back is what was written, or an error that says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.worlds import begin, digest_of, name_of, record_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from envmgr.errors import Corrupt, StoreTooNew
from envmgr.model import Failure
from envmgr.names import BuildId
from envmgr.store import records
from envmgr.store.layout import Layout

NAME = name_of("one")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
IN_ONE_STORE = settings(
    derandomize=True, max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def failure_of(**changes: object) -> Failure:
    values = {"at": 5.0, "code": "build_failed", "message": "no", "hint": None, "log": "tail", "attempts": 2, **changes}
    return Failure(name=NAME, **values)  # type: ignore[arg-type]


def test_a_record_comes_back(layout: Layout) -> None:
    """A record is read as it was written, with its own types."""
    lease = begin(layout, "one")
    found = records.read_record(layout, NAME, lease.build_id)
    assert found == record_of(NAME, lease.build_id, digest_of("one"))
    assert isinstance(found.build_id, BuildId)
    lease.close()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"format": "x"}', "\x00", "[" * 100_000])
def test_a_damaged_record_is_corrupt(layout: Layout, text: str) -> None:
    """Whatever stands in a record's place, the answer is `Corrupt` with a way out."""
    lease = begin(layout, "one")
    layout.build(lease.build_id).record.write_text(text, encoding="utf-8")
    with pytest.raises(Corrupt, match=r"record\.json") as refused:
        records.read_record(layout, NAME, lease.build_id)
    assert "repair" in str(refused.value.hint)
    lease.close()


@IN_ONE_STORE
@given(key=st.sampled_from(sorted(record_of(NAME, BuildId("0" * 12 + "-1"), "").__slots__)), value=JSON)
def test_a_record_with_any_field_replaced(layout: Layout, key: str, value: object) -> None:
    """A record in which any field has any other value is read with that value or refused as one of our errors."""
    lease = begin(layout, "one")
    path = layout.build(lease.build_id).record
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps({**document, key: value}), encoding="utf-8")
    try:
        records.read_record(layout, NAME, lease.build_id)
    except (Corrupt, StoreTooNew):
        pass
    finally:
        lease.close()


@pytest.mark.parametrize("what", ["missing", "directory"])
def test_a_record_that_is_no_file_is_corrupt(layout: Layout, what: str) -> None:
    """A record that was deleted, or that is a directory now, is `Corrupt`."""
    lease = begin(layout, "one")
    path = layout.build(lease.build_id).record
    path.unlink()
    if what == "directory":
        path.mkdir()
    with pytest.raises(Corrupt):
        records.read_record(layout, NAME, lease.build_id)
    lease.close()


def test_a_record_of_another_build_is_corrupt(layout: Layout) -> None:
    """A record that was copied from another build is not believed."""
    one, two = begin(layout, "one"), begin(layout, "one")
    layout.build(one.build_id).record.write_bytes(layout.build(two.build_id).record.read_bytes())
    with pytest.raises(Corrupt, match=two.build_id):
        records.read_record(layout, NAME, one.build_id)
    one.close()
    two.close()


def test_a_newer_record_is_refused(layout: Layout) -> None:
    """A record of a later format is not guessed at."""
    lease = begin(layout, "one")
    path = layout.build(lease.build_id).record
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "format": 99}), encoding="utf-8")
    with pytest.raises(StoreTooNew, match="format 99"):
        records.read_record(layout, NAME, lease.build_id)
    lease.close()


def test_a_failure_comes_back_and_goes(layout: Layout) -> None:
    """The last failure is kept, replaced by a later one, and cleared without a trace."""
    assert records.read_failure(layout, NAME) is None
    for attempts in (1, 2):
        failure = failure_of(attempts=attempts)
        records.write_failure(layout, failure)
        assert records.read_failure(layout, NAME) == failure
    records.clear_failure(layout, NAME)
    records.clear_failure(layout, NAME)
    assert records.read_failure(layout, NAME) is None


@IN_ONE_STORE
@given(key=st.sampled_from([*sorted(failure_of().__slots__), "format"]), value=JSON)
def test_a_damaged_failure_counts_as_none(layout: Layout, key: str, value: object) -> None:
    """A note of a failure in which any field has any other value is read, or counts as none; it stops nobody."""
    records.write_failure(layout, failure_of())
    path = layout.name(NAME) / "failure.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), key: value}), encoding="utf-8")
    found = records.read_failure(layout, NAME)
    if found is not None:
        assert isinstance(found.at, float)
        assert isinstance(found.attempts, int)


def test_pins_are_idempotent(layout: Layout) -> None:
    """Pinning and unpinning twice is the same as once."""
    for is_pinned in (True, True, False, False):
        records.set_pinned(layout, NAME, is_pinned=is_pinned)
        assert records.is_pinned(layout, NAME) == is_pinned


def test_forget_drops_everything_of_a_name(layout: Layout) -> None:
    """After `forget`, nothing of the name is known, and nothing of it lies in the trash."""
    records.set_pinned(layout, NAME, is_pinned=True)
    records.write_lockfile(layout, NAME, "linux-64", "text")
    records.write_failure(layout, failure_of())
    assert records.known_names(layout) == (NAME,)
    records.forget(layout, NAME)
    records.forget(layout, NAME)
    assert records.known_names(layout) == ()
    assert records.read_lockfile(layout, NAME, "linux-64") is None
    assert list(Path(layout.trash).iterdir()) == []


def test_the_last_creator_is_remembered(layout: Layout) -> None:
    """Whom an environment was made for is known until it is forgotten; a damaged note counts as none."""
    assert records.read_creator(layout, NAME) is None
    for uid in (0, 1000):
        records.write_creator(layout, NAME, uid, 1.0)
        assert records.read_creator(layout, NAME) == uid
    (layout.name(NAME) / "creator.json").write_text("{", encoding="utf-8")
    assert records.read_creator(layout, NAME) is None


def test_a_name_whose_maker_died_early_is_readable_again(layout: Layout) -> None:
    """A directory that was made under a strict umask, and never got its mode, gets it from the next writer."""
    layout.name(NAME).mkdir(mode=0o700)
    records.set_pinned(layout, NAME, is_pinned=True)
    assert layout.name(NAME).stat().st_mode & 0o777 == 0o755
