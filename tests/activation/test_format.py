"""The file ``activation``: its bytes, what applying it means, and that the shell text means the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envmgr import activation
from envmgr.errors import Corrupt, UsageError

SHELLS = [shell for shell in ("bash", "dash", "zsh", "ksh", "sh") if shutil.which(shell)]
PATH = "/usr/bin:/bin"

# What a variable can hold, with what breaks quoting much more often than chance would bring it.
_values = st.text(
    st.one_of(
        st.sampled_from("'\"\\$`!\n\t *?[]{}~;&|<>()#=-: \r\u00e9\U0001f600"),
        st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)),
    ),
    max_size=20,
)
_keys = st.sampled_from(["ENVMGR_A", "ENVMGR_B", "ENVMGR_C_PATH", "PATH"])
_entries = st.lists(st.text(st.sampled_from("ab/'*? \\$~"), min_size=1, max_size=4), min_size=1, max_size=3).map(
    ":".join
)
_changes = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from(["ENVMGR_A", "ENVMGR_B"]), _values),
        st.tuples(st.just("unset"), st.sampled_from(["ENVMGR_A", "ENVMGR_B"]), st.just("")),
        st.tuples(st.sampled_from(["prepend", "append"]), _keys, _entries),
    ),
    max_size=5,
)
_lists = st.text(st.sampled_from("ab/:'* "), max_size=8)


def _evaluate(shell: str, text: str, environ: dict[str, str]) -> dict[str, str]:
    """Evaluate `text` in a real shell, strictly (``-eu``), and return the environment of what it starts."""
    command = [shutil.which(shell), "-euc", f'eval "$1"; exec {shutil.which("env")} -0', shell, text]
    done = subprocess.run(command, env=environ, capture_output=True, check=True)
    assert done.stderr == b""
    pairs = (entry.partition("=") for entry in os.fsdecode(done.stdout).split("\0") if entry)
    return {key: value for key, _, value in pairs if key not in {"_", "PWD", "SHLVL", "OLDPWD"}}


def test_the_bytes_of_the_format_are_fixed() -> None:
    """A file that an older version wrote means the same for ever: these bytes are a golden vector."""
    changes = (("set", "A", "x\ny"), ("unset", "B", ""), ("prepend", "PATH", "/p/bin"), ("append", "L", "/q"))
    data = b"envmgr-activation-1\nset\0A\0x\ny\0unset\0B\0\0prepend\0PATH\0/p/bin\0append\0L\0/q\0"
    assert activation.dump(changes) == data
    assert activation.parse(data) == changes


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"envmgr-activation-2\nset\0A\0b\0",
        b"envmgr-activation-1\nset\0A\0b",
        b"envmgr-activation-1\nset\0A\0",
        b"envmgr-activation-1\nrun\0A\0b\0",
        b"envmgr-activation-1\nset\0\0b\0",
        b"envmgr-activation-1\nset\0A=B\0b\0",
    ],
)
def test_a_damaged_file_is_corrupt(data: bytes, tmp_path: Path) -> None:
    """A file that is cut off, of another version or with an unknown operation is never half applied."""
    path = tmp_path / "activation"
    path.write_bytes(data)
    with pytest.raises(Corrupt, match="activation"):
        activation.load(path)


@pytest.mark.parametrize("change", [("set", "A", "x\0y"), ("set", "", "x"), ("set", "A=B", "x"), ("run", "A", "x")])
def test_what_cannot_be_a_variable_is_not_written(change: tuple[str, str, str]) -> None:
    """Nothing is written that a reader would refuse."""
    with pytest.raises(ValueError, match="not a change"):
        activation.dump([change])


@given(_changes)
def test_what_is_written_is_read_back(changes: list[tuple[str, str, str]]) -> None:
    """dump and parse are each other's inverse."""
    assert activation.parse(activation.dump(changes)) == tuple(changes)


@given(_changes, st.dictionaries(_keys, _lists))
def test_applying_twice_is_applying_once(changes: list[tuple[str, str, str]], environ: dict[str, str]) -> None:
    """A program started inside an environment that starts another inside the same one does not pile up entries."""
    once = activation.apply(changes, environ)
    first = [entry for _, key, value in changes if key == "PATH" for entry in value.split(":")]
    if len(set(first)) == len(first):  # moved by two changes, an entry's last place counts; else nothing moves twice
        again = activation.apply(changes, once)
        assert {key: sorted(value.split(":")) for key, value in again.items()} == {
            key: sorted(value.split(":")) for key, value in once.items()
        }


def test_entering_an_environment_twice_changes_nothing_the_second_time() -> None:
    """The changes that a capture writes are idempotent exactly, order included."""
    changes = (("unset", "PYTHONHOME", ""), ("prepend", "PATH", "/p/bin"), ("set", "CONDA_SHLVL", "1"))
    once = activation.apply(changes, {"PATH": "/p/bin:/usr/bin:/p/bin", "PYTHONHOME": "/x"})
    assert once == {"PATH": "/p/bin:/usr/bin", "CONDA_SHLVL": "1"}
    assert activation.changes(changes, once) == {}


def test_an_outer_environment_stays_behind() -> None:
    """Entering a second environment puts its programs first and keeps the first one's findable."""
    outer = activation.apply([("prepend", "PATH", "/outer/bin")], {"PATH": PATH})
    inner = activation.apply([("prepend", "PATH", "/inner/bin")], outer)
    assert inner["PATH"] == "/inner/bin:/outer/bin:/usr/bin:/bin"


def test_only_the_difference_is_reported() -> None:
    """`changes` names what becomes different and what goes away, and nothing that stays."""
    found = activation.changes(
        [("set", "A", "1"), ("set", "B", "2"), ("unset", "C", ""), ("unset", "D", "")], {"A": "1", "C": "3", "E": "4"}
    )
    assert found == {"B": "2", "C": None}


def test_a_missing_path_counts_as_the_systems_default() -> None:
    """A caller without PATH still finds the system's programs afterwards; no other list gets an empty entry."""
    after = activation.apply([("prepend", "PATH", "/p/bin"), ("prepend", "LD_LIBRARY_PATH", "/p/lib")], {})
    assert after == {"PATH": f"/p/bin:{os.defpath}", "LD_LIBRARY_PATH": "/p/lib"}


@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=60, deadline=None)
@given(changes=_changes, old=st.one_of(st.none(), _lists))
def test_the_shell_text_does_what_apply_does(shell: str, changes: list[tuple[str, str, str]], old: str | None) -> None:
    """Evaluated under ``set -eu`` in a real shell, the text gives exactly the environment that `apply` computes."""
    environ = {"PATH": PATH, "ENVMGR_B": "before"}
    if old is not None:
        environ["ENVMGR_C_PATH"] = old
    assert _evaluate(shell, activation.script(changes), environ) == activation.apply(changes, environ)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_text_minds_neither_ifs_nor_odd_names(shell: str) -> None:
    """A shell whose IFS is a colon splits nothing, and a name that is no identifier is left out, not run."""
    changes = [("set", "A;echo x", "1"), ("set", "a-b", "1"), ("prepend", "L", "/p q:/r"), ("append", "L", "/s t")]
    text = "IFS=:\n" + activation.script(changes)
    assert _evaluate(shell, text, {"PATH": PATH, "L": "/old"}) == {"PATH": PATH, "L": "/p q:/r:/old:/s t"}


def test_bytes_that_are_not_utf8_survive(tmp_path: Path) -> None:
    """A path in another encoding is the same bytes in the file and in the shell."""
    value = os.fsdecode(b"/caf\xe9")
    path = tmp_path / "activation"
    path.write_bytes(activation.dump([("set", "A", value)]))
    assert activation.load(path) == (("set", "A", value),)
    assert _evaluate("sh", activation.script(activation.load(path)), {})["A"] == value


def test_another_shell_is_refused() -> None:
    """No text is better than text in the wrong language."""
    with pytest.raises(UsageError, match="fish"):
        activation.script([], shell="fish")


def test_the_import_is_cheap() -> None:
    """The hot path pays for nothing: only the errors are imported besides what every interpreter has."""
    code = (
        f"import os, sys; sys.path.insert(0, {os.getcwd()!r}); import envmgr.errors; before = set(sys.modules)\n"
        "import envmgr.activation; print(*sorted(set(sys.modules) - before))"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"envmgr.activation"}
