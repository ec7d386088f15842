"""The README is true: its tables are those of the code, and its code runs."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from places import CHECKOUT

from envmgr import spec

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


def test_tables_are_made_from_the_code() -> None:
    """Every error's exit code and every setting stands in the README, in the code's own words."""
    made = runpy.run_path(str(CHECKOUT / "scripts" / "readme_tables"))["with_tables"](README)
    assert made == README, "run scripts/readme_tables"


def blocks(language: str) -> list[str]:
    """Return the README's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_its_spec_has_the_name_that_it_tells() -> None:
    """The example's YAML has the very name that the example's output shows."""
    (document,) = blocks("yaml")
    assert spec.parse(document).name in README


@pytest.mark.slow
def test_its_library_example_runs(store: Path, tmp_path: Path, clean_environ: dict[str, str]) -> None:
    """The library's example runs a job in an environment and returns its exit status."""
    (program,) = blocks("python")
    (tmp_path / "program.py").write_text(program + "\nimport sys\nsys.exit(run(Path(sys.argv[1]), sys.argv[2]))\n")
    (tmp_path / "job.py").write_text("import rich, sys\nsys.exit(5)\n")
    (tmp_path / "spec.yml").write_text("dependencies: [python, rich]\n")
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py", tmp_path / "spec.yml", tmp_path / "job.py"],
        env={**clean_environ, "ENVMGR_ROOT": str(store)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 5, done.stderr


def test_names_every_command() -> None:
    """Each command of the command line stands in the README."""
    from envmgr.cli.app import app  # noqa: PLC0415 - only this test needs the command line

    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    commands |= {group.name for group in app.registered_groups if group.name}
    assert commands
    missing = {command for command in commands if not re.search(rf"`[^`]*\b{command}\b", README)}
    assert missing == set()
