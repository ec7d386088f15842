"""The table of errors is complete and unambiguous, and an error crosses a process boundary without loss."""

from __future__ import annotations

import json
import pickle

import pytest

from envmgr import errors
from envmgr.errors import EnvironmentInUse, EnvmgrError, InvalidSpec
from envmgr.model import Problem, Usage

CLASSES = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, EnvmgrError)]
EXIT_CODES = {
    1: {"unexpected", "build_failed", "builder_died", "rollout_failed"},
    2: {"usage"},
    3: {"invalid_spec"},
    4: {"unsatisfiable"},
    5: {"channel", "network", "offline"},
    6: {"not_found", "host_unknown"},
    7: {"in_use", "alias_taken", "declared"},
    8: {"timed_out"},
    9: {"coordinator", "claim_lost", "daemon", "busy"},
    10: {"no_space"},
    11: {"permission", "policy", "filesystem", "store_too_new", "cluster_tree", "unauthenticated"},
    12: {"corrupt", "name_collision"},
    13: {"incompatible_host"},
    14: {"lockfile_mismatch", "lockfile_too_large"},
    15: {"unsuitable"},
    16: {"limit_exceeded"},
    130: {"cancelled"},
}


def sample(cls: type[EnvmgrError]) -> EnvmgrError:
    if issubclass(cls, InvalidSpec):
        return cls("what", [Problem(3, 7, "odd", "less odd")], hint="do")
    if issubclass(cls, EnvironmentInUse):
        return cls("what", [Usage(12, 1000, "python job.py", "lease")], hint="do")
    return cls("what", hint="do", path="/somewhere", alias="training", count=3)


def test_codes_are_unique() -> None:
    """Every class has a stable code of its own, and the table has them all."""
    assert len({cls.code for cls in CLASSES}) == len(CLASSES)
    assert {cls.code: cls for cls in CLASSES} == dict(errors.TABLE)


def test_exit_codes_are_those_of_the_contract() -> None:
    """Each code has the exit status that is promised to scripts, and a status that HTTP knows."""
    found: dict[int, set[str]] = {}
    for cls in CLASSES:
        found.setdefault(cls.exit_code, set()).add(cls.code)
        assert 400 <= cls.http_status < 600
    assert found == EXIT_CODES


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.code)
def test_an_error_crosses_a_pipe(cls: type[EnvmgrError]) -> None:
    """An error that went through JSON is of the same class and says the same, fields included."""
    error = sample(cls)
    found = errors.from_json(json.loads(json.dumps(error.to_json())))
    assert type(found) is cls
    assert found.to_json() == error.to_json()
    assert str(found) == str(error) == "what\nhint: do"
    assert found.args == error.args


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.code)
def test_an_error_crosses_multiprocessing(cls: type[EnvmgrError]) -> None:
    """An error that was pickled (pools of processes do that) says the same."""
    error = sample(cls)
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is cls
    assert found.to_json() == error.to_json()


@pytest.mark.parametrize(
    "document",
    [
        {}, {"code": "from a later version", "message": "m"}, {"code": None}, {"code": ["x"]}, {"fields": 5},
        {"hint": 5, "code": "usage"},
        {"code": "in_use", "fields": {"users": "x"}}, {"code": "invalid_spec", "fields": None},
    ],
)  # fmt: skip
def test_a_strange_document_still_is_an_error(document: dict[str, object]) -> None:
    """Whatever another version sends, the answer is an error that can be shown and sent on."""
    found = errors.from_json(document)
    assert isinstance(found, EnvmgrError)
    json.dumps(found.to_json())
    str(found)
