"""Real environment files, and hand-written ones: each gets a name or one report that names each problem."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from envmgr.errors import InvalidSpec
from envmgr.spec import parse

CORPUS = Path(__file__).parent.parent / "corpus"
FILES = sorted(CORPUS.glob("*.yml"))


def outcome(path: Path) -> list[str]:
    """Return the rows of ``expected.tsv`` for one file: file, line, column, and the name or the problem."""
    try:
        return [f"{path.name}\t\t\t{parse(path.read_bytes()).name}"]
    except InvalidSpec as error:
        return [f"{path.name}\t{it.line}\t{it.column}\t{it.message}" for it in error.problems]


def expected() -> dict[str, list[str]]:
    rows: dict[str, list[str]] = {}
    for row in (CORPUS / "expected.tsv").read_text("utf-8").splitlines()[1:]:
        rows.setdefault(row.partition("\t")[0], []).append(row)
    return rows


def test_every_file_has_an_expectation() -> None:
    """The corpus, its index and its expectations name the same files."""
    names = [path.name for path in FILES]
    index = [row.partition("\t")[0] for row in (CORPUS / "INDEX.tsv").read_text("utf-8").splitlines()[1:]]
    assert sorted(index) == names
    assert sorted(expected()) == names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_outcome(path: Path) -> None:
    """A file has the name, or exactly the problems, that are on record; and takes no time."""
    began = time.process_time()
    assert outcome(path) == expected()[path.name]
    assert time.process_time() - began < 5


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_stored_text_has_the_same_name(path: Path) -> None:
    """What is stored as a spec's text has the spec's name, and no credentials; a problem has a line."""
    if "\tenv-" not in expected()[path.name][0]:
        assert all(row.split("\t")[1] for row in expected()[path.name])
        return
    spec = parse(path.read_bytes())
    again = parse(spec.source_text)
    assert again == spec
    assert "secret" not in spec.source_text
    assert "token-1" not in spec.source_text


if __name__ == "__main__":
    for file in FILES:
        if file.name not in expected():
            sys.stdout.write("\n".join(outcome(file)) + "\n")
