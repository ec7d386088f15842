"""The pip section, from local pages of links: what is refused, what is installed by hash, and what is left."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from whole_hosts import Host, write_links, write_sdist, write_wheel


@pytest.fixture
def links(tmp_path: Path) -> Path:
    """A directory of wheels: ``alpha`` needs ``beta``; ``gamma`` is a source archive; ``idna`` is newer."""
    files = tmp_path / "index" / "files"
    write_wheel(files, "alpha", "1.0", ["beta"])
    write_wheel(files, "beta", "1.0")
    write_wheel(files, "idna", "99.0")
    write_sdist(files, "gamma", "1.0")
    write_links(tmp_path / "index")
    return files


@pytest.fixture
def pip_host(python_host: Host, links: Path) -> Host:
    """The host with Python, where pip sections find only `links`; its other settings are the usual ones."""
    return Host(python_host.directory, {**python_host.settings, "no_index": True, "find_links": [str(links)]})


@pytest.fixture(autouse=True)
def check_left_over(python_host: Host) -> Iterator[None]:
    """Whatever a test did, each environment is whole and no build is left."""
    yield
    python_host.check_whole()
    assert python_host.litter() == []
    python_host.set()


def test_locked_installed_and_verified(pip_host: Host) -> None:
    """A pip section is locked with its dependencies, installed by hash, and damage to it is seen and repaired."""
    spec = pip_host.spec("python", pip=["alpha"])
    record = pip_host.create(spec)
    command = ("run", record["name"], "--", "python", "-c", "import alpha, beta; print(alpha.version, beta.version)")
    answer = pip_host.run(*command)
    assert answer.out == "1.0 1.0\n", answer.err
    lock = pip_host.run("lock", spec).out
    assert "manager: pip" in lock
    (module,) = Path(record["prefix"]).glob("lib/python*/site-packages/beta.py")
    module.chmod(0o644)
    module.write_text("version = 'changed'\n")
    assert pip_host.run("verify", record["name"]).code == 12
    repaired = pip_host.ready("repair", record["name"])
    assert repaired["lock_digest"] == record["lock_digest"]
    assert pip_host.run("verify", record["name"]).code == 0
    answer = pip_host.run(*command)
    assert answer.out == "1.0 1.0\n", answer.err


def test_package_that_does_not_exist(pip_host: Host) -> None:
    """A pip package that no index has is `unsatisfiable`, and named."""
    code, error = pip_host.refused("create", pip_host.spec("python", pip=["nowhere-to-be-found"]))
    assert (code, error["code"]) == (4, "unsatisfiable")
    assert "nowhere-to-be-found" in error["message"]


def test_hash_in_the_spec_that_does_not_match(pip_host: Host) -> None:
    """A requirement with a hash that no archive has is refused, with the package's name."""
    spec = pip_host.spec("python", pip=[f"beta==1.0 --hash=sha256:{'0' * 64}"])
    code, error = pip_host.refused("create", spec)
    assert error["code"] in {"corrupt", "unsatisfiable", "invalid_spec"}, error
    assert code in {3, 4, 12}
    assert "beta" in str(error)


def test_archive_that_changed_after_it_was_locked(pip_host: Host, links: Path) -> None:
    """A wheel that is not the locked one any more is `corrupt`; when the right one is back, the build succeeds."""
    write_wheel(links, "delta", "1.0")
    spec = pip_host.spec("python", pip=["delta"])
    name = pip_host.create(spec)["name"]
    pip_host.ready("remove", name)
    shutil.rmtree(pip_host.root / "uv-cache")
    good = (links / "delta-1.0-py3-none-any.whl").read_bytes()
    write_wheel(links, "delta", "1.0", ["beta"])
    code, error = pip_host.refused("create", spec)
    assert (code, error["code"]) == (12, "corrupt"), error
    assert "delta" in error["message"]
    (links / "delta-1.0-py3-none-any.whl").write_bytes(good)
    pip_host.create(spec)


def test_pip_may_not_replace_a_conda_package(pip_host: Host) -> None:
    """A pip section that would replace what conda installed is refused, naming the setting that allows it."""
    spec = pip_host.spec("python", "idna", pip=["idna>=99"])
    code, error = pip_host.refused("create", spec)
    assert (code, error["code"]) in {(11, "policy"), (4, "unsatisfiable")}, error
    assert "idna" in error["message"]
    assert "allow_replacing_conda" in error["message"] + (error["hint"] or "")
    pip_host.set(allow_replacing_conda=True)
    record = pip_host.create(spec, "--retry")
    assert any("idna" in warning for warning in record["warnings"])
    answer = pip_host.run("run", record["name"], "--", "python", "-c", "import idna; print(idna.version)")
    assert answer.out == "99.0\n", answer.err


def test_source_archives_by_setting(pip_host: Host) -> None:
    """A source archive is refused by name where the setting forbids it, and built and locked where it does not."""
    spec = pip_host.spec("python", pip=["gamma"])
    pip_host.set(allow_sdists=[])
    code, error = pip_host.refused("create", spec)
    assert (code, error["code"]) == (11, "policy"), error
    assert "gamma" in error["message"]
    assert "allow_sdists" in error["message"] + (error["hint"] or "")
    pip_host.set(allow_sdists=["gamma"])
    record = pip_host.create(spec, "--retry")
    answer = pip_host.run("run", record["name"], "--", "python", "-c", "import gamma; print(gamma.version)")
    assert answer.out == "built\n", answer.err
