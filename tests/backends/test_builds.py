"""A build from one end to the other: requirements in, a checked and read-only prefix out."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import carried_conda
import pytest
from backend_hosts import SUBDIR, Host, Limit
from demo.packages import fabricate, index

from envmgr import lockfile
from envmgr.backends.spawner import Spawner
from envmgr.errors import (
    ChannelError,
    Corrupt,
    IncompatibleHost,
    InvalidSpec,
    LockfileMismatch,
    PolicyRefused,
    Unsatisfiable,
)
from envmgr.wire.pipe import Channel, Network

SITE_CONDA = pytest.param("conda", marks=pytest.mark.slow)
EVERY_BACKEND = pytest.mark.parametrize("host", ["rattler", SITE_CONDA], indirect=True)
"""rattler, and the site's conda: this host's own, else the one that conda-lock carries, which takes its time."""
EVERY_BACKEND_HERE = pytest.mark.parametrize(
    "host", ["rattler", *([SITE_CONDA] if carried_conda.found() else [])], indirect=True
)
"""rattler, and the conda, mamba or micromamba that is installed on this host, if there is one."""


def inode(path: Path) -> int:
    return path.stat().st_ino


@EVERY_BACKEND_HERE
def test_a_build_solves_fetches_and_links(host: Host, channel: Path) -> None:
    """From a channel on disk: the newest packages, linked; result, lockfile, log and events tell of it."""
    built = host.build(channel.as_uri(), conda=("app", "tool"))
    assert built.result is not None
    names = {path.name for path in (built.prefix / "conda-meta").glob("*.json")}
    assert names == {"app-1.0-0.json", "lib-2.0-0.json", "tool-1.0-0.json"}
    assert (built.prefix / "share/lib/version.txt").read_text() == "lib 2.0 0\n"
    assert built.result.packages == 3
    assert built.result.python_version is None
    assert [name for name, _ in built.result.phases_s] == [
        "solve", "fetch", "unpack", "link", "activation", "check", "sync",
    ]  # fmt: skip
    (text,) = built.locked
    assert (built.build_dir / "conda-lock.yml").read_text() == text
    assert lockfile.parse(text, SUBDIR).digest == built.result.lock_digest
    assert "solve: begin" in built.log
    assert stat.S_IMODE((built.build_dir / "build.log").stat().st_mode) == 0o644
    assert sorted(path.name for path in built.build_dir.iterdir()) == [
        "activation", "build.log", "conda-lock.yml", "envs", "lease",
    ]  # fmt: skip


@EVERY_BACKEND
def test_a_lockfile_is_installed_without_its_channels_index(host: Host, channel: Path) -> None:
    """With the lockfile of another build, nothing is solved or fetched again, and the same packages come out."""
    first = host.build(channel.as_uri(), conda=("app",))
    second = host.build(conda=("app",), lockfile=first.locked[0])
    assert first.result is not None
    assert second.result is not None
    assert second.result.lock_digest == first.result.lock_digest
    assert second.locked == first.locked
    phases = [name for name, _ in second.result.phases_s]
    assert phases == ["link", "activation", "check", "sync"]
    assert second.result.downloaded_bytes == 0
    records = [
        {path.name: path.read_bytes() for path in (one.prefix / "conda-meta").glob("*.json")} for one in (first, second)
    ]
    assert records[0] == records[1]


@EVERY_BACKEND_HERE
def test_prefixes_share_inodes_with_the_cache(host: Host, channel: Path) -> None:
    """Files are hard links to the unpacked package, without a right to write; records name the cache's entry."""
    one = host.build(channel.as_uri(), conda=("tool",))
    other = host.build(channel.as_uri(), conda=("tool",))
    (entry,) = (path for path in (host.packages / "unpacked").iterdir() if path.is_dir())
    for name in ("share/tool/data.bin", "bin/tool"):
        assert inode(one.prefix / name) == inode(other.prefix / name) == inode(entry / name)
    assert stat.S_IMODE((one.prefix / "bin/tool").stat().st_mode) == 0o555
    assert stat.S_IMODE((one.prefix / "share/tool/data.bin").stat().st_mode) == 0o444
    record = json.loads((one.prefix / "conda-meta/tool-1.0-0.json").read_text())
    assert record["extracted_package_dir"] == record["link"]["source"] == str(entry)


@EVERY_BACKEND_HERE
def test_the_prefix_is_read_only_and_readable_to_all(host: Host, channel: Path) -> None:
    """No file or directory of a finished prefix can be written; everyone can read all of it."""
    built = host.build(channel.as_uri(), conda=("app", "tool"))
    for path in [built.prefix, *built.prefix.rglob("*")]:
        mode = path.stat().st_mode
        assert not mode & 0o222, path
        assert mode & 0o444 == 0o444, path


@EVERY_BACKEND_HERE
def test_conda_finds_history_state_and_frozen(host: Host, channel: Path) -> None:
    """What was asked for, the variables, and the mark that forbids changes stand where conda reads them."""
    built = host.build(channel.as_uri(), conda=("app >=1", "lib"), variables=(("KEY", "a b"),))
    history = (built.prefix / "conda-meta/history").read_text()
    assert '# update specs: ["app >=1", "lib"]' in history
    assert "+chan/noarch::lib-2.0-0" in history
    assert json.loads((built.prefix / "conda-meta/state").read_text())["env_vars"] == {"KEY": "a b"}
    assert "message" in json.loads((built.prefix / "conda-meta/frozen").read_text())
    requested = json.loads((built.prefix / "conda-meta/app-1.0-0.json").read_text())["requested_specs"]
    assert requested == ["app >=1"]


@EVERY_BACKEND_HERE
def test_no_requirements_make_an_empty_environment(host: Host, channel: Path) -> None:
    """A spec without a package is an environment without packages."""
    built = host.build(channel.as_uri())
    assert built.result is not None
    assert built.result.packages == 0
    assert (built.prefix / "conda-meta/history").exists()


@EVERY_BACKEND_HERE
def test_lock_only_fetches_nothing(host: Host, channel: Path) -> None:
    """Without a pip section, the lockfile needs no package and makes no prefix."""
    locked = host.build(channel.as_uri(), conda=("app",), action="lock")
    assert [one.name for one in lockfile.parse(locked.locked[0], SUBDIR).packages] == ["app", "lib"]
    assert not locked.prefix.exists()
    assert list((host.packages / "archives").iterdir()) == []


def test_the_solvers_explanation_reaches_the_caller(host: Host, channel: Path) -> None:
    """What cannot be met is `Unsatisfiable`, with the requirement that stands in the way."""
    with pytest.raises(Unsatisfiable, match="lib >=3"):
        host.build(channel.as_uri(), conda=("app", "lib >=3"))
    with pytest.raises(InvalidSpec, match="pandas=>=1"):
        host.build(channel.as_uri(), conda=("pandas=>=1.0",))


@EVERY_BACKEND_HERE
def test_a_lockfile_that_does_not_meet_the_spec_is_refused(host: Host, channel: Path) -> None:
    """Versions, builds and missing packages are all named, and nothing is installed."""
    text = host.build(channel.as_uri(), conda=("app", "lib <2"), action="lock").locked[0]
    request = host.request(conda=("app", "lib >=2", "tool"), lockfile=text)
    with pytest.raises(LockfileMismatch, match=r"no conda package tool; lib >=2: the lockfile has lib 1.0 0") as caught:
        host.run(request)
    assert len(caught.value.fields["unmet"]) == 2  # type: ignore[arg-type]
    assert not Path(request.prefix).exists()


@pytest.mark.slow
@EVERY_BACKEND_HERE
def test_virtual_packages_come_from_the_host_and_the_request(host: Host, tmp_path: Path) -> None:
    """A package for machines with CUDA is found when the request says there is one; not by the caller's variables."""
    directory = tmp_path / "chan"
    fabricate(directory, "gpu", "1.0", depends=["__cuda >=12"])
    fabricate(directory, "old", "1.0", depends=["__glibc >=2.17", "__unix"])
    index(directory)
    host.build(directory.as_uri(), conda=("old",))
    os.environ["CONDA_OVERRIDE_CUDA"] = "12.4"
    try:
        with pytest.raises(Unsatisfiable, match="__cuda"):
            host.build(directory.as_uri(), conda=("gpu",), virtual_package_overrides=(("cuda", ""),))
    finally:
        del os.environ["CONDA_OVERRIDE_CUDA"]
    made = host.build(directory.as_uri(), conda=("gpu",), virtual_package_overrides=(("__cuda", "12.4"),))
    lock = lockfile.parse(made.locked[0], SUBDIR)
    assert lock.virtual_packages == (("__cuda", ">=12"),)
    with pytest.raises(IncompatibleHost, match="__cuda >=12") as caught:
        host.build(conda=("gpu",), lockfile=made.locked[0], virtual_package_overrides=(("__cuda", "11.8"),))
    assert caught.value.fields["missing"] == ["__cuda >=12 (here: 11.8)"]
    host.build(conda=("gpu",), lockfile=made.locked[0], virtual_package_overrides=(("cuda", "12.6"),))


@pytest.mark.slow
@EVERY_BACKEND_HERE
def test_a_declared_class_is_solved_for_and_the_host_checked(host: Host, tmp_path: Path) -> None:
    """What is declared decides what is chosen, whatever the solving host has; what it lacks itself it does not install.

    The same class gives the same packages on a host with more and on one with less; one that has too little is refused
    before anything is linked.
    """
    directory = tmp_path / "chan"
    fabricate(directory, "tool", "1.0", depends=["__glibc >=2.17"])
    fabricate(directory, "tool", "2.0", depends=["__glibc >=2.28"])
    fabricate(directory, "tool", "3.0", depends=["__cuda >=12"])
    index(directory)
    old, new = (("__glibc", "2.17"),), (("__glibc", "2.28"),)
    more = (("__glibc", "2.99"), ("__cuda", "12.4"))
    for declared, expected in ((old, "1.0"), (new, "2.0"), ((*old, ("__cuda", "12")), "3.0")):
        made = host.build(
            directory.as_uri(), conda=("tool",), solve_virtual_packages=declared, virtual_package_overrides=more
        )
        assert [one.version for one in lockfile.parse(made.locked[0], SUBDIR).packages] == [expected]
    little = host.request(
        directory.as_uri(), conda=("tool",), solve_virtual_packages=new, virtual_package_overrides=old
    )
    with pytest.raises(IncompatibleHost, match=r"__glibc >=2\.28"):
        host.run(little)
    assert not Path(little.prefix).exists()


@pytest.fixture(scope="module")
def two_channels(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two channels: the second has newer packages, and one that needs its own newer lib."""
    first, second = (tmp_path_factory.mktemp("two") / name for name in ("first", "second"))
    fabricate(first, "lib", "1.0")
    fabricate(second, "lib", "2.0")
    fabricate(second, "app", "1.0", depends=["lib >=2"])
    index(first)
    index(second)
    return first.as_uri(), second.as_uri()


def version_of(built: object, name: str) -> str:
    (text,) = built.locked  # type: ignore[attr-defined]
    return next(one.version for one in lockfile.parse(text, SUBDIR).packages if one.name == name)


@pytest.mark.slow
def test_channel_priority(host: Host, two_channels: tuple[str, str]) -> None:
    """Strict: the first channel that has a package is the only one. Flexible: only if it will do. Disabled: newest."""
    lock = {"action": "lock"}
    assert version_of(host.build(*two_channels, conda=("lib",), **lock), "lib") == "1.0"
    with pytest.raises(Unsatisfiable, match="strict channel priority"):
        host.build(*two_channels, conda=("app",), **lock)
    flexible = {"channel_priority": "flexible", **lock}
    assert version_of(host.build(*two_channels, conda=("lib",), **flexible), "lib") == "1.0"
    assert version_of(host.build(*two_channels, conda=("app",), **flexible), "lib") == "2.0"
    disabled = {"channel_priority": "disabled", **lock}
    assert version_of(host.build(*two_channels, conda=("lib",), **disabled), "lib") == "2.0"


def test_a_channel_by_name_is_what_the_request_says_it_is(host: Host, two_channels: tuple[str, str]) -> None:
    """``name::package`` takes the package from the URL that the name stands for here, not from the public channel."""
    channels = (Channel("conda-forge", two_channels[:1]), Channel("ours/label/dev", two_channels[1:]))
    made = host.build(*channels, conda=("ours/label/dev::lib",), action="lock")
    assert version_of(made, "lib") == "2.0"
    made = host.build(*channels, conda=("conda-forge::lib",), action="lock")
    assert version_of(made, "lib") == "1.0"


def test_several_urls_are_one_channel(host: Host, two_channels: tuple[str, str]) -> None:
    """A channel of several URLs (``defaults``) is one tier of priority: its newest package wins, by name too."""
    defaults = Channel("defaults", two_channels)
    assert version_of(host.build(defaults, conda=("app",), action="lock"), "lib") == "2.0"
    assert version_of(host.build(defaults, conda=("defaults::lib",), action="lock"), "lib") == "2.0"


def test_exclude_newer_hides_what_came_later(host: Host, channel: Path) -> None:
    """Packages published after the given time do not exist for the solve."""
    with pytest.raises(Unsatisfiable):
        host.build(channel.as_uri(), conda=("app",), action="lock", exclude_newer="2001-01-01T00:00:00Z")
    host.build(channel.as_uri(), conda=("app",), action="lock", exclude_newer="2100-01-01")
    with pytest.raises(InvalidSpec, match="soon"):
        host.build(channel.as_uri(), conda=("app",), action="lock", exclude_newer="soon")


@pytest.mark.slow
@EVERY_BACKEND
def test_link_scripts_run_only_where_allowed(host: Host, tmp_path: Path) -> None:
    """A post-link script is skipped and named, unless its package may run it; one that fails fails the build."""
    directory = tmp_path / "chan"
    script = (
        '#!/bin/sh\necho "$PKG_NAME $PKG_VERSION" > "$PREFIX/made-by-script"\necho hello > "$PREFIX/.messages.txt"\n'
    )
    fabricate(directory, "scripted", "1.0", files={"bin/.scripted-post-link.sh": script})
    fabricate(directory, "failing", "1.0", files={"bin/.failing-post-link.sh": "#!/bin/sh\necho no; exit 3\n"})
    index(directory)
    skipped = host.build(directory.as_uri(), conda=("scripted", "failing"))
    assert skipped.result is not None
    assert sorted(skipped.result.skipped_link_scripts) == ["failing", "scripted"]
    assert not (skipped.prefix / "made-by-script").exists()
    allowed = host.build(directory.as_uri(), conda=("scripted", "failing"), allow_link_scripts=("scripted",))
    assert allowed.result is not None
    assert allowed.result.skipped_link_scripts == ("failing",)
    assert (allowed.prefix / "made-by-script").read_text() == "scripted 1.0\n"
    assert "scripted says: hello" in allowed.messages("warning")
    with pytest.raises(Exception, match="post-link script of failing failed with status 3"):
        host.build(directory.as_uri(), conda=("failing",), allow_link_scripts=None)


@pytest.mark.slow
def test_packages_of_one_name_version_and_build_are_told_apart(host: Host, tmp_path: Path) -> None:
    """Two channels have a package that is called the same: each build gets what it asked for, in any order."""
    channels = [tmp_path / "first", tmp_path / "second"]
    for directory in channels:
        fabricate(directory, "same", "1.0", files={"share/same.txt": directory.name})
        index(directory)
    for directory in [*channels, *channels]:
        built = host.build(directory.as_uri(), conda=("same",))
        assert (built.prefix / "share/same.txt").read_text() == directory.name
        record = json.loads((built.prefix / "conda-meta/same-1.0-0.json").read_bytes())
        assert Path(record["extracted_package_dir"]) == host.packages / "unpacked" / record["sha256"][:48]


def test_a_large_environment_is_refused(host: Host, channel: Path) -> None:
    """One that is larger than the setting allows is refused with the rule and the setting; a smaller one is built."""
    with pytest.raises(PolicyRefused, match="max_environment_bytes") as caught:
        host.build(channel.as_uri(), conda=("tool",), max_environment_bytes=5000)
    assert caught.value.fields["rule"] == "size"
    assert caught.value.fields["setting"] == "max_environment_bytes"
    assert host.build(channel.as_uri(), conda=("tool",), max_environment_bytes=1_000_000).result is not None


@pytest.mark.slow
def test_a_build_gives_way(host: Host, tmp_path: Path) -> None:
    """The builder's tools run with the niceness of the request, and no build without one gives way."""
    directory = tmp_path / "chan"
    fabricate(directory, "nice", "1.0", files={"bin/.nice-post-link.sh": "#!/bin/sh\nnice > $PREFIX/niceness\n"})
    index(directory)
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    for more in (0, 3):
        built = host.build(directory.as_uri(), conda=("nice",), allow_link_scripts=None, nice=more)
        assert (built.prefix / "niceness").read_text() == f"{min(19, ours + more)}\n"


@pytest.mark.slow
def test_files_of_two_packages_are_warned_of(host: Host, tmp_path: Path) -> None:
    """When two packages bring the same file, the build works and says whose file lost."""
    directory = tmp_path / "chan"
    fabricate(directory, "one", "1.0", files={"share/same.txt": "one"})
    fabricate(directory, "two", "1.0", files={"share/same.txt": "two"})
    index(directory)
    built = host.build(directory.as_uri(), conda=("one", "two"))
    assert built.result is not None
    (warning,) = built.result.warnings
    assert "share/same.txt is in several packages" in warning


def test_a_lockfile_whose_url_holds_another_package_is_corrupt(host: Host, channel: Path) -> None:
    """A right hash of a wrong package does not do: what is in the archive must be what is locked."""
    text = host.build(channel.as_uri(), conda=("lib",), action="lock").locked[0]
    renamed = text.replace("name: lib", "name: bil").replace("lib-2.0", "bil-2.0")
    chan = host.root / "copy"
    (chan / "noarch").mkdir(parents=True)
    (chan / "noarch" / "bil-2.0-0.conda").write_bytes((channel / "noarch" / "lib-2.0-0.conda").read_bytes())
    with pytest.raises(Corrupt, match=r"holds lib 2.0, not bil 2.0"):
        host.build(conda=("bil",), lockfile=renamed.replace(channel.as_uri(), chan.as_uri()))


def test_envmgr_may_be_importable_by_the_parents_path_only(host: Host, channel: Path, tmp_path: Path) -> None:
    """A runner that finds envmgr through PYTHONPATH can build; a module of its own stands in for nothing."""
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')\n")
    root = Path(__file__).resolve().parents[2]
    code = (
        "import sys, os; sys.path.append(os.environ['ALSO']);"
        "from backend_hosts import Host; from pathlib import Path;"
        "built = Host(Path(sys.argv[1])).build(sys.argv[2], conda=('lib',)); print(built.result.packages)"
    )
    environ = {**os.environ, "PYTHONPATH": f"{root}:{root / 'scripts'}:{Path(__file__).parent}", "ALSO": str(tmp_path)}
    command = [sys.executable, "-c", code, str(tmp_path / "store"), channel.as_uri()]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_an_archive_that_is_no_file(host: Host, tmp_path: Path, kind: str) -> None:
    """A pipe, which nobody writes to, and a device, which never ends, are refused: anybody's spec may name them."""
    directory = tmp_path / "chan"
    fabricate(directory, "lib", "1.0")
    index(directory)
    (archive,) = directory.rglob("lib-1.0-*.conda")
    archive.unlink()
    if kind == "pipe":
        os.mkfifo(archive)
    else:
        archive.symlink_to("/dev/zero")
    with pytest.raises(ChannelError, match="no regular file"):
        host.build(directory.as_uri(), conda=("lib",))


def test_probe_tells_what_is_wrong_with_a_channel(channel: Path) -> None:
    """A channel that answers has no problem; one that does not has one in words."""
    network = Network(max_retries=0)
    spawner = Spawner()
    assert spawner.probe(Channel("good", (channel.as_uri(),)), network, SUBDIR) is None
    problem = spawner.probe(Channel("bad", ("http://127.0.0.1:9/none",)), network, SUBDIR)
    assert problem is not None
    assert "bad" in problem


def test_probe_tells_of_any_trouble(tmp_path: Path) -> None:
    """Settings that cannot be used, too, are an answer and no error: here an authentication file that is none."""
    (tmp_path / "auth.json").write_text("no json")
    network = Network(auth_file=str(tmp_path / "auth.json"))
    credentials = Channel("one", ("http://user:password@127.0.0.1:9/one",))
    problem = Spawner().probe(credentials, network, SUBDIR)
    assert problem is not None
    assert "auth.json cannot be read" in problem


def test_the_deadline_is_asked_often(host: Host, channel: Path) -> None:
    """While a builder works, the caller's deadline is checked at least five times a second."""
    limit = Limit()
    host.run(host.request(channel.as_uri(), conda=("app",)), limit=limit)
    gaps = [after - before for before, after in zip(limit.checks, limit.checks[1:], strict=False)]
    assert max(gaps) < 0.2
