"""The units as they are shipped, judged by systemd's own tools; and what the installer makes of them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from envmgr.errors import UsageError
from envmgr.service import places

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """Both units for a prefix that is there."""
    command = tmp_path / "prefix" / "current" / "bin" / "envmgr"
    command.parent.mkdir(parents=True)
    command.touch(0o755)
    made = []
    for name, text in places.unit_texts(tmp_path / "prefix", "users").items():
        (tmp_path / name).write_text(text)
        made.append(tmp_path / name)
    return made


@needs_analyze
def test_verify_is_silent(units: list[Path]) -> None:
    """systemd understands every line (what it does not, it only prints, and still succeeds)."""
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_analyze
def test_exposure(units: list[Path]) -> None:
    """systemd rates the exposure at 4.0 or less."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=40", units[0]],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_weakening_is_explained() -> None:
    """What is left open on purpose is named in the unit, in a comment."""
    comments = "\n".join(re.findall(r"(?m)^#.*$", places.unit_texts()[places.SERVICE_UNIT]))
    for word in (
        "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "ProtectProc=", "ProcSubset=", "PrivateUsers=", "PrivateDevices=",
        "/dev/nvidia*", "ProtectControlGroups=", "PrivateNetwork=", "IPAddressDeny=", "MemoryDenyWriteExecute=",
        "RuntimeDirectory=",
    ):  # fmt: skip
        assert word in comments, word


def test_prefix_and_group() -> None:
    """The installer's two choices end up in the units, and nothing else changes."""
    shipped, made = places.unit_texts(), places.unit_texts(Path("/srv/e"), "people")
    assert "ExecStart=/srv/e/current/bin/envmgr " in made[places.SERVICE_UNIT]
    assert str(places.PREFIX) not in made[places.SERVICE_UNIT]
    assert "SocketMode=0660\nSocketGroup=people\n" in made[places.SOCKET_UNIT]
    assert "SocketMode=0666\n" in shipped[places.SOCKET_UNIT]
    assert f"ListenStream={places.SOCKET}\n" in shipped[places.SOCKET_UNIT]


@pytest.mark.parametrize("word", ["relative", "/", "/opt/a b", "/opt/../etc", "/opt/%n", "/" + "x" * 80, ""])
def test_prefixes_that_cannot_stand_in_a_unit(word: str) -> None:
    """Spaces, systemd's specifiers, and what is too long for a script's first line are refused."""
    with pytest.raises(UsageError, match="--prefix"):
        places.checked_prefix(word)
