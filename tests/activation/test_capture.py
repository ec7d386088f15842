"""What a prefix's activation does is captured once, with a real shell, and applied without one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from envmgr import activation
from envmgr.backends.activation import capture
from envmgr.errors import BuildFailed
from envmgr.events import Event
from envmgr.store.orphans import MARK

Captured = Callable[..., dict[str, str]]


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    path = tmp_path / "builds" / "0123456789ab-1" / "envs" / "env-0123456789abcdef"
    (path / "etc/conda/activate.d").mkdir(parents=True)
    (path / "etc/conda/env_vars.d").mkdir(parents=True)
    (path / "bin").mkdir()
    return path


def _script(prefix: Path, name: str, text: str) -> Path:
    path = prefix / "etc/conda/activate.d" / name
    path.write_text(text)
    return path


def _environ(prefix: Path, environ: dict[str, str] | None = None) -> dict[str, str]:
    changes = activation.load(prefix.parent.parent / "activation")
    return activation.apply(changes, {"PATH": "/usr/bin:/bin"} if environ is None else environ)


def test_what_conda_always_sets(prefix: Path) -> None:
    """Without any script the program still sees an activated environment, under its stable name."""
    assert capture(prefix, prefix.parent.parent) == ()
    outer = {"PATH": "/outer/bin:/bin", "PYTHONHOME": "/x", "VIRTUAL_ENV": "/y", "CONDA_SHLVL": "3"}
    assert _environ(prefix, outer) == {
        "PATH": f"{prefix}/bin:/outer/bin:/bin",
        "CONDA_PREFIX": str(prefix),
        "CONDA_DEFAULT_ENV": "env-0123456789abcdef",
        "CONDA_PROMPT_MODIFIER": "(env-0123456789abcdef) ",
        "CONDA_SHLVL": "1",
    }
    assert (prefix.parent.parent / "activation").stat().st_mode & 0o777 == 0o444


def test_variables_are_literal_and_the_specs_win(prefix: Path) -> None:
    """Nothing in a variable is expanded, as conda quotes them; the spec's win over the packages', in file order."""
    (prefix / "etc/conda/env_vars.d/b.json").write_text(json.dumps({"ONE": "b", "TWO": "b", "GONE": "***unset***"}))
    (prefix / "etc/conda/env_vars.d/a.json").write_text(json.dumps({"ONE": "a", "THREE": 3}))
    capture(prefix, prefix.parent.parent, [("TWO", "$HOME/`id`'\"\n"), ("lower", "x")])
    found = _environ(prefix, {"GONE": "y"})
    assert (found["ONE"], found["TWO"], found["THREE"]) == ("b", "$HOME/`id`'\"\n", "3")
    assert found["lower"] == found["LOWER"] == "x"
    assert "GONE" not in found


def test_scripts_are_sourced_in_order_with_everything_set(prefix: Path) -> None:
    """A script sees the prefix, the variables and what earlier scripts exported, as under conda."""
    _script(prefix, "10.sh", 'export FROM_SCRIPT="$CONDA_PREFIX/share:$A"; not_exported=1; unset B')
    _script(prefix, "20.sh", 'export LATER="$FROM_SCRIPT$not_exported"')
    _script(prefix, "30.fish", "set -gx FISH 1")
    capture(prefix, prefix.parent.parent, [("A", "a"), ("B", "b")])
    found = _environ(prefix)
    assert found["FROM_SCRIPT"] == f"{prefix}/share:a"
    assert found["LATER"] == f"{prefix}/share:a1"
    assert not {"B", "FISH", "not_exported", "PWD", "SHLVL", "_", "HOME", "LANG"} & set(found)


def test_scripts_extend_lists_rather_than_set_them(prefix: Path) -> None:
    """What the caller has in PATH, LD_LIBRARY_PATH and the like survives, on the side where the script leaves it."""
    _script(
        prefix,
        "lists.sh",
        """
        export PATH="$CONDA_PREFIX/extra/bin:$PATH:$CONDA_PREFIX/late"
        export LD_LIBRARY_PATH="$CONDA_PREFIX/lib:$LD_LIBRARY_PATH"
        export MY_DIRS="${MY_DIRS:+$MY_DIRS:}$CONDA_PREFIX/share"
        export PYTHONPATH="$CONDA_PREFIX/py"
        """,
    )
    capture(prefix, prefix.parent.parent)
    outer = {"PATH": "/bin", "LD_LIBRARY_PATH": "/cuda", "MY_DIRS": "/d", "PYTHONPATH": "/mine"}
    found = _environ(prefix, outer)
    assert found["PATH"] == f"{prefix}/extra/bin:{prefix}/bin:/bin:{prefix}/late"
    assert found["LD_LIBRARY_PATH"] == f"{prefix}/lib:/cuda"
    assert found["MY_DIRS"] == f"/d:{prefix}/share"
    assert found["PYTHONPATH"] == f"{prefix}/py"
    assert activation.changes(activation.load(prefix.parent.parent / "activation"), found) == {}
    assert _environ(prefix, {"PATH": "/bin"})["LD_LIBRARY_PATH"] == f"{prefix}/lib"


def test_what_scripts_print_goes_to_the_log_only(prefix: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A chatty script disturbs neither the answer nor the captured variables."""
    _script(prefix, "a.sh", "echo hello; echo X=1 >&2; export REAL=1")
    events: list[Event] = []
    assert capture(prefix, prefix.parent.parent, report=events.append) == ()
    assert [event.message for event in events if event.kind == "log"] == ["hello", "X=1"]
    assert capfd.readouterr() == ("", "")
    assert "X" not in _environ(prefix)


def test_a_failing_script_is_a_warning_and_the_next_one_runs(prefix: Path) -> None:
    """conda goes on after a script that ends with an error; so does a build, and it says which."""
    bad = _script(prefix, "1.sh", "export BEFORE=1\nfalse")
    _script(prefix, "2.sh", "export AFTER=1")
    events: list[Event] = []
    (warning,) = capture(prefix, prefix.parent.parent, report=events.append)
    assert str(bad) in warning
    assert [event.message for event in events if event.kind == "warning"] == [warning]
    assert {"BEFORE", "AFTER"} <= set(_environ(prefix))


def test_a_script_that_ends_the_shell_fails_the_build(prefix: Path) -> None:
    """An ``exit`` would end the shell of every user who activates the environment."""
    _script(prefix, "1.sh", "true")
    bad = _script(prefix, "2.sh", "exit 3")
    with pytest.raises(BuildFailed, match=str(bad)) as caught:
        capture(prefix, prefix.parent.parent)
    assert caught.value.fields["script"] == str(bad)


def test_a_script_that_does_not_end_fails_the_build(prefix: Path) -> None:
    """A hanging script is named and stopped."""
    os.mkfifo(prefix / "fifo")
    bad = _script(prefix, "hang.sh", f"read -r x <> {prefix}/fifo")
    with pytest.raises(BuildFailed, match=str(bad)):
        capture(prefix, prefix.parent.parent, timeout_s=2)


def test_a_script_may_leave_something_running(prefix: Path) -> None:
    """What a script starts in the background does not keep the build waiting, though it holds the script's output."""
    _script(prefix, "daemon.sh", "(exec tail -f /dev/null) & export STARTED=$!")
    capture(prefix, prefix.parent.parent, timeout_s=10)
    pid = int(_environ(prefix)["STARTED"])
    os.kill(pid, 9)


def test_nothing_of_the_caller_gets_in(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder's own variables and home directory neither reach a script nor the file."""
    monkeypatch.setenv("ENVMGR_SECRET", "s3cret")
    monkeypatch.setenv("BASH_ENV", "/does/not/exist")
    _script(prefix, "a.sh", 'export COPY="${ENVMGR_SECRET-none}"; export CACHE="$HOME/.cache"; f() { :; }; export -f f')
    warnings = capture(prefix, prefix.parent.parent)
    found = _environ(prefix)
    assert found["COPY"] == "none"
    assert "CACHE" not in found
    assert not [key for key in found if key.startswith("BASH_FUNC")]
    assert len(warnings) == 1
    assert "CACHE" in warnings[0]


def test_a_variable_runs_nothing_while_scripts_are_captured(prefix: Path, tmp_path: Path) -> None:
    """A spec's BASH_ENV, which bash expands, is kept for programs, and not the builder's shell's to obey."""
    _script(prefix, "a.sh", "export SEEN=1\n")
    value = f"$(touch {tmp_path / 'ran'})"
    capture(prefix, prefix.parent.parent, [("BASH_ENV", value), ("ENV", value)])
    assert not (tmp_path / "ran").exists()
    environ = _environ(prefix)
    assert (environ["SEEN"], environ["BASH_ENV"], environ["ENV"]) == ("1", value, value)


def test_no_job_gets_the_mark_of_a_build(prefix: Path) -> None:
    """Neither a spec's variables nor a package's, nor a script, can make a job look like a part of a build."""
    (prefix / "etc/conda/env_vars.d/a.json").write_text(json.dumps({MARK: "/one"}))
    _script(prefix, "a.sh", f"export SEEN=1 {MARK}=/two\n")
    capture(prefix, prefix.parent.parent, [(MARK, "/three"), (MARK.lower(), "/four")])
    environ = _environ(prefix)
    assert environ["SEEN"] == "1"
    assert MARK not in environ


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_broken_declaration_names_its_file(prefix: Path, text: str) -> None:
    """A package's env_vars.d file that is not a JSON object fails the build and is named."""
    path = prefix / "etc/conda/env_vars.d/x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BuildFailed, match=str(path)):
        capture(prefix, prefix.parent.parent)
