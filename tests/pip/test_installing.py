"""Exactly the locked artifacts are installed, by hash, and what is there afterwards is judged."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from package_index import Index, Prefix, make_prefix
from test_locking import QUICK, _repository, versions

from envmgr import lockfile
from envmgr.backends import pip
from envmgr.errors import BuildFailed, ChannelError, Corrupt, NetworkError, Offline, PolicyRefused
from envmgr.events import Event
from envmgr.model import LockedPackage
from envmgr.wire.pipe import Network, PipSettings

INTERPRETERS = sorted(Path("~/.pyenv/versions").expanduser().glob("3.*/bin/python"))


def locked(index: Index, file_name: str, name: str, version: str) -> LockedPackage:
    url = f"{index.url}/files/{file_name}"
    return LockedPackage("pip", name, version, url, index.sha256(file_name), None, None, None, ())


@pytest.fixture
def uv_cache(tmp_path: Path) -> Path:
    return tmp_path / "uv-cache"


def install(
    prefix: Prefix,
    uv_cache: Path,
    *packages: LockedPackage,
    network: Network = QUICK,
    settings: PipSettings = PipSettings(),  # noqa: B008 - frozen
) -> list[Event]:
    events: list[Event] = []
    pip.install(
        packages,
        prefix=prefix.path,
        settings=settings,
        network=network,
        uv_cache=uv_cache,
        report=events.append,
    )
    return events


def test_exactly_the_locked_files_are_installed(prefix: Prefix, index: Index, uv_cache: Path) -> None:
    """Neither a newer version nor a dependency is looked for; the file is shared with the cache; scripts are right."""
    index.wheel("alpha", "1.0", ["nosuch>9"])
    index.wheel("alpha", "2.0")
    package = locked(index, "alpha-1.0-py3-none-any.whl", "alpha", "1.0")
    events = install(prefix, uv_cache, package)
    assert prefix.run("import alpha; print(alpha.version)") == "1.0"
    assert (prefix.site_packages / "alpha.py").stat().st_nlink == 2
    assert index.requests == ["/files/alpha-1.0-py3-none-any.whl"]
    assert [event.done for event in events if event.kind == "progress"][-1] == 1
    assert not list(prefix.site_packages.glob("alpha-1.0.dist-info/direct_url.json"))


def test_a_second_prefix_needs_no_network(prefix: Prefix, index: Index, uv_cache: Path, tmp_path: Path) -> None:
    """What is in the cache is installed offline; what is not is an `Offline` error, and nothing is downloaded."""
    for name in ("alpha", "beta"):
        index.wheel(name, "1.0")
    alpha = locked(index, "alpha-1.0-py3-none-any.whl", "alpha", "1.0")
    beta = locked(index, "beta-1.0-py3-none-any.whl", "beta", "1.0")
    install(prefix, uv_cache, alpha)
    second = make_prefix(tmp_path / "second")
    offline = replace(QUICK, is_offline=True)
    install(second, uv_cache, alpha, network=offline)
    with pytest.raises(Offline):
        install(second, uv_cache, beta, network=offline)


@pytest.mark.parametrize("is_warm", [False, True])
def test_wrong_bytes_are_corrupt(prefix: Prefix, index: Index, uv_cache: Path, tmp_path: Path, is_warm: bool) -> None:
    """A file that has not the locked hash is never installed, from the index or from the cache, at no retry."""
    index.wheel("alpha", "1.0")
    good = locked(index, "alpha-1.0-py3-none-any.whl", "alpha", "1.0")
    if is_warm:
        install(make_prefix(tmp_path / "other"), uv_cache, good)
    for _ in range(2):
        with pytest.raises(Corrupt, match="alpha"):
            install(prefix, uv_cache, replace(good, sha256="0" * 64))
    assert not list(prefix.site_packages.glob("alpha*"))


def test_network_failures_are_told_apart(prefix: Prefix, index: Index, uv_cache: Path) -> None:
    """A file that is gone will stay gone; a server that breaks may come back."""
    index.wheel("alpha", "1.0")
    good = locked(index, "alpha-1.0-py3-none-any.whl", "alpha", "1.0")
    with pytest.raises(ChannelError, match="404") as caught:
        install(prefix, uv_cache, replace(good, url=good.url.replace("alpha-1.0-", "alpha-1.0-2-")))
    assert not caught.value.is_transient
    with pytest.raises(NetworkError):
        install(prefix, uv_cache, replace(good, url="http://127.0.0.1:1/alpha-1.0-py3-none-any.whl"))
    index.status = 500
    with pytest.raises(NetworkError):
        install(prefix, uv_cache, good)


@pytest.mark.parametrize("how", ["url", "netrc"])
def test_credentials_are_found_for_a_url_without_them(
    prefix: Prefix, index: Index, uv_cache: Path, tmp_path: Path, how: str
) -> None:
    """A lockfile's URL has no password; the site's settings have it, on every host, and it shows nowhere."""
    index.credentials = "user:s3cret"
    index.wheel("alpha", "1.0")
    package = locked(index, "alpha-1.0-py3-none-any.whl", "alpha", "1.0")
    with pytest.raises(ChannelError, match="401"):
        install(prefix, uv_cache, package)
    if how == "url":
        url = index.simple.replace("://", "://user:s3cret@")
        events = install(prefix, uv_cache, package, settings=PipSettings(index_url=url))
    else:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login user password s3cret\n")
        netrc.chmod(0o600)
        events = install(prefix, uv_cache, package, network=replace(QUICK, netrc_file=str(netrc)))
    assert prefix.run("import alpha; print(alpha.version)") == "1.0"
    assert "s3cret" not in repr(events)
    assert not [path for path in prefix.path.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]


def test_sources_commits_and_urls_go_through_a_lockfile(
    prefix: Prefix, index: Index, uv_cache: Path, tmp_path: Path
) -> None:
    """Locked, written as conda-lock.yml, read again and installed: a wheel, an sdist, a URL and a commit."""
    index.wheel("alpha", "1.0")
    index.sdist("sonly", "1.0")
    index.wheel("direct", "1.0")
    archive = index.sdist("zipped", "1.0")
    archive.rename(index.files / "snapshot.tar.gz")
    repository, _ = _repository(tmp_path)
    solution = pip.lock(
        [
            "alpha",
            "sonly",
            f"direct @ {index.url}/files/direct-1.0-py3-none-any.whl",
            f"zipped @ {index.url}/files/snapshot.tar.gz",
            f"tool @ git+{repository}@main",
        ],
        prefix=prefix.path,
        settings=PipSettings(index_url=index.simple),
        network=QUICK,
        uv_cache=uv_cache,
    )
    assert set(solution.not_reproducible) == {"sonly", "zipped", "tool"}
    text = lockfile.write(solution.packages, subdir="linux-64", channels=[], not_reproducible=solution.not_reproducible)
    found = lockfile.parse(text, "linux-64")
    assert found.digest == lockfile.digest(solution.packages)
    install(prefix, uv_cache, *found.packages)
    assert prefix.run("import alpha, direct, sonly, zipped, tool; print(sonly.is_built, tool.is_built)") == "True True"
    assert versions(solution) == {"alpha": "1.0", "direct": "1.0", "sonly": "1.0", "tool": "3.0", "zipped": "1.0"}
    assert pip.unmet(["alpha==1.0", "tool>=3", "zipped"], prefix.path) == ()


def test_a_lockfile_allows_no_sources(prefix: Prefix, index: Index, uv_cache: Path) -> None:
    """A lockfile made where sources may be built is refused where they may not; wheels of it are fine."""
    index.wheel("alpha", "1.0")
    index.sdist("sonly", "1.0")
    alpha = locked(index, "alpha-1.0-py3-none-any.whl", "alpha", "1.0")
    sonly = locked(index, "sonly-1.0.tar.gz", "sonly", "1.0")
    with pytest.raises(PolicyRefused, match="sonly"):
        install(prefix, uv_cache, alpha, sonly, settings=PipSettings(allow_sdists=("other",)))
    assert index.requests == []
    install(prefix, uv_cache, alpha, sonly, settings=PipSettings(allow_sdists=("Sonly",)))


def test_a_build_that_fails_says_why(prefix: Prefix, index: Index, uv_cache: Path) -> None:
    """A source distribution whose build ends with an error fails the installation with its own words."""
    bad = index.files / "broken-1.0.tar.gz"
    work = index.root / "broken-1.0"
    work.mkdir()
    (work / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (work / "setup.py").write_text("")
    (work / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (work / "backend.py").write_text("def build_wheel(*_, **__): raise RuntimeError('no compiler here')\n")
    subprocess.run(["tar", "-czf", bad, "-C", index.root, "broken-1.0"], check=True)
    with pytest.raises(BuildFailed, match="no compiler here"):
        install(prefix, uv_cache, locked(index, "broken-1.0.tar.gz", "broken", "1.0"))


def test_replacing_a_conda_package_leaves_one_of_it(prefix: Prefix, index: Index, uv_cache: Path) -> None:
    """Where it is allowed, the replaced distribution is gone, not shadowed."""
    prefix.conda_installs("alpha", "0.5")
    index.wheel("alpha", "1.0")
    install(prefix, uv_cache, locked(index, "alpha-1.0-py3-none-any.whl", "alpha", "1.0"))
    assert prefix.run("import alpha; print(alpha.version)") == "1.0"
    assert [path.name for path in prefix.site_packages.glob("alpha-*")] == ["alpha-1.0.dist-info"]


def test_what_does_not_fit_together_is_said(prefix: Prefix, index: Index, uv_cache: Path) -> None:
    """`check` names missing and wrong requirements of what is installed; a prefix that fits says nothing."""
    assert pip.check(prefix.path, uv_cache=uv_cache) == ()
    index.wheel("alpha", "1.0", ["beta>=2", "gamma"])
    index.wheel("beta", "1.0")
    for name in ("alpha", "beta"):
        install(prefix, uv_cache, locked(index, f"{name}-1.0-py3-none-any.whl", name, "1.0"))
    missing, wrong = sorted(pip.check(prefix.path, uv_cache=uv_cache), key=lambda line: "gamma" not in line)
    assert missing == "The package alpha requires gamma, but it's not installed"
    assert "beta>=2" in wrong


def test_what_was_asked_for_is_compared_with_what_is_there(prefix: Prefix) -> None:
    """A lockfile that was given is held against the spec: names, versions and markers, whoever installed it."""
    prefix.conda_installs("Beta_X", "1.5")
    lines = [
        "beta.x>=1 --hash=sha256:00",
        "beta-x>=2",
        "absent",
        "absent; python_version < '3'",
        "git+https://git.example.org/x",
    ]
    assert pip.unmet(lines, prefix.path) == ("beta-x>=2: beta-x 1.5 is installed", "absent: absent is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("python", INTERPRETERS, ids=lambda path: path.parent.parent.name)
def test_every_interpreter_of_the_machine_is_served(python: Path, index: Index, uv_cache: Path, tmp_path: Path) -> None:
    """From 3.6 on, a section is solved and installed for the prefix's own interpreter, with its own wheels."""
    prefix = make_prefix(tmp_path / "prefix", str(python))
    major, minor, _ = prefix.interpreter.version
    abi = f"cp{major}{minor}" + ("m" if minor < 8 else "")
    index.wheel("fast", "1.0")
    index.wheel("fast", "1.0", tag=f"cp{major}{minor}-{abi}-manylinux1_x86_64")
    index.sdist("sonly", "1.0")
    solution = pip.lock(
        ["fast", "sonly; python_version >= '3.8'"],
        prefix=prefix.path,
        settings=PipSettings(index_url=index.simple),
        network=QUICK,
        uv_cache=uv_cache,
    )
    install(prefix, uv_cache, *solution.packages)
    assert prefix.run("import fast; print(fast.tag)") == f"cp{major}{minor}-{abi}-manylinux1_x86_64"
    assert pip.check(prefix.path, uv_cache=uv_cache) == ()
