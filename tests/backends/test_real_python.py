"""Builds with a real interpreter: the demo channel's python, a pip section, byte-code, the hook."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from backend_hosts import SUBDIR, Host

from envmgr import lockfile
from envmgr.errors import LockfileMismatch, Unsatisfiable
from envmgr.wire.pipe import PipSettings

pytestmark = pytest.mark.slow


def make_wheel(directory: Path, name: str, version: str, requires: str = "") -> Path:
    """Make a wheel with one module, which says its version."""
    directory.mkdir(exist_ok=True)
    path = directory / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    members = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": metadata + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = []
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in members.items():
            archive.writestr(member, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            lines.append(f"{member},sha256={digest},{len(text)}")
        archive.writestr(f"{info}/RECORD", "\n".join([*lines, f"{info}/RECORD,,"]) + "\n")
    return path


def run(python: Path, code: str) -> str:
    done = subprocess.run(
        [python, "-c", code], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """One host with caches that the tests of this file share."""
    return Host(tmp_path_factory.mktemp("real") / "store")


def test_an_environment_with_both_managers(place: Host, demo_channel: str, tmp_path: Path) -> None:
    """conda's python and packages, then pip's wheel by its hash; all of it importable, compiled and read-only."""
    make_wheel(tmp_path / "wheels", "ours", "1.5", "requests")
    pip = PipSettings(find_links=((tmp_path / "wheels").as_uri(),), index_url=(tmp_path / "none").as_uri())
    built = place.build(
        demo_channel, conda=("python", "requests"), pip=("ours>=1",), pip_settings=pip, is_offline=False
    )
    assert built.result is not None
    assert [name for name, _ in built.result.phases_s] == [
        "solve", "fetch", "unpack", "link", "pip-lock", "pip", "activation", "compile", "check", "sync",
    ]  # fmt: skip
    assert built.result.python_version == ".".join(map(str, sys.version_info[:3]))
    python = built.prefix / "bin/python"
    assert (
        run(python, "import ours, requests, ssl, sqlite3, sys; print(ours.version, sys.prefix)")
        == f"1.5 {built.prefix}"
    )
    (lock_text,) = built.locked
    lock = lockfile.parse(lock_text, SUBDIR)
    (ours,) = [package for package in lock.packages if package.manager == "pip"]
    assert (ours.name, ours.version) == ("ours", "1.5")
    assert built.result.lock_digest == lock.digest
    script = built.prefix / "bin/pydoc"
    assert script.is_symlink(), "a link of a package's own stays a link: a copy would not know its prefix"
    assert script.read_text().startswith(f"#!{built.prefix}/bin/")
    site = next(built.prefix.glob("lib/python3.*/site-packages"))
    assert (site / "envmgr_lease.pth").exists()
    tag = sys.implementation.cache_tag
    for module in (site / "ours.py", next(site.glob("requests/api.py"))):
        compiled = module.parent / "__pycache__" / f"{module.stem}.{tag}.pyc"
        assert compiled.read_bytes()[4:8] == b"\1\0\0\0", compiled  # unchecked hash (PEP 552)
    assert not site.stat().st_mode & 0o222
    assert not (site / "ours.py").stat().st_mode & 0o222

    again = place.build(
        demo_channel, conda=("python", "requests"), pip=("ours>=1",), pip_settings=pip, lockfile=lock_text
    )
    assert again.result is not None
    assert again.result.lock_digest == lock.digest
    assert "pip-lock" not in dict(again.result.phases_s)
    assert run(again.prefix / "bin/python", "import ours; print(ours.version)") == "1.5"

    with pytest.raises(LockfileMismatch, match="rich"):
        place.build(demo_channel, conda=("python",), pip=("rich",), pip_settings=pip, lockfile=lock_text)


def test_a_pip_section_is_locked_without_a_build(place: Host, demo_channel: str, tmp_path: Path) -> None:
    """`lock` with a pip section needs an interpreter to ask, but installs nothing of pip's."""
    make_wheel(tmp_path / "wheels", "ours", "1.5")
    pip = PipSettings(find_links=((tmp_path / "wheels").as_uri(),), index_url=(tmp_path / "none").as_uri())
    made = place.build(demo_channel, conda=("python",), pip=("ours",), pip_settings=pip, action="lock")
    assert [one.name for one in lockfile.parse(made.locked[0], SUBDIR).packages if one.manager == "pip"] == ["ours"]
    assert list(made.prefix.glob("lib/python3.*/site-packages/ours*")) == []


def test_a_pip_requirement_that_does_not_exist(place: Host, demo_channel: str, tmp_path: Path) -> None:
    """What no index has is unsatisfiable, and named."""
    pip = PipSettings(find_links=(tmp_path.as_uri(),), index_url=(tmp_path / "none").as_uri())
    with pytest.raises(Unsatisfiable, match="no-such-thing"):
        place.build(demo_channel, conda=("python",), pip=("no-such-thing",), pip_settings=pip)


def test_unmet_requirements_of_installed_packages_are_shown(place: Host, demo_channel: str, tmp_path: Path) -> None:
    """What `pip check` would say of the finished environment is a warning of the build."""
    make_wheel(tmp_path / "wheels", "wanting", "1.0", "never-there")
    pip = PipSettings(find_links=((tmp_path / "wheels").as_uri(),), index_url=(tmp_path / "none").as_uri())
    lock_text = place.build(demo_channel, conda=("python",), action="lock").locked[0]
    entry = {
        "name": "wanting", "version": "1.0", "manager": "pip", "platform": SUBDIR, "dependencies": {},
        "url": (tmp_path / "wheels" / "wanting-1.0-py3-none-any.whl").as_uri(),
        "hash": {"sha256": hashlib.sha256((tmp_path / "wheels/wanting-1.0-py3-none-any.whl").read_bytes()).hexdigest()},
        "category": "main", "optional": False,
    }  # fmt: skip
    built = place.build(
        conda=("python",), pip=("wanting",), pip_settings=pip, lockfile=f"{lock_text}- {json.dumps(entry)}\n"
    )
    assert built.result is not None
    assert any("never-there" in warning for warning in built.result.warnings)


def test_real_packages_are_linked_not_copied(place: Host, demo_channel: str) -> None:
    """Nearly every library of a real environment is one file with the cache's."""
    text = place.build(demo_channel, conda=("python", "numpy", "requests", "rich")).locked[0]
    built = place.build(conda=("python", "numpy", "requests", "rich"), lockfile=text)
    assert built.result is not None
    shared = [path for path in built.prefix.rglob("*.so*") if path.is_file() and not path.is_symlink()]
    assert shared
    linked = [path for path in shared if path.stat().st_nlink > 1]
    assert len(linked) >= len(shared) * 0.9
