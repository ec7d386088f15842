"""The pip section is solved against what conda installed, with uv, from a real index."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from package_index import Index, Prefix, source_tree

from envmgr.backends import pip
from envmgr.backends.pip import Locked
from envmgr.backends.pip.options import translate
from envmgr.errors import (
    BuildFailed,
    ChannelError,
    Corrupt,
    InvalidSpec,
    NetworkError,
    Offline,
    PolicyRefused,
    Unsatisfiable,
)
from envmgr.events import Event
from envmgr.spec.pip_options import OPTIONS
from envmgr.wire.pipe import Network, PipSettings

pytestmark = pytest.mark.slow  # each test is uv with a server of packages

QUICK = Network(max_retries=0, timeout_s=10)


class Solver:
    """`lock` with everything that a test does not speak of filled in."""

    def __init__(self, prefix: Prefix, index: Index, uv_cache: Path) -> None:
        self.prefix = prefix
        self.index = index
        self.uv_cache = uv_cache
        self.events: list[Event] = []

    def __call__(
        self,
        *requirements: str,
        options: tuple[tuple[str, str], ...] = (),
        network: Network = QUICK,
        exclude_newer: str | None = None,
        environ: Mapping[str, str] = MappingProxyType({}),
        newest_glibc: tuple[int, int] | None = None,
        **settings: object,
    ) -> Locked:
        return pip.lock(
            requirements,
            prefix=self.prefix.path,
            settings=PipSettings(**{"index_url": self.index.simple, "options": options, **settings}),  # type: ignore[arg-type]
            network=network,
            uv_cache=self.uv_cache,
            exclude_newer=exclude_newer,
            environ=environ,
            subdir=f"linux-{'aarch64' if platform.machine() == 'aarch64' else '64'}",
            newest_glibc=newest_glibc,
            report=self.events.append,
        )


@pytest.fixture
def solve(prefix: Prefix, index: Index, tmp_path: Path) -> Solver:
    return Solver(prefix, index, tmp_path / "uv-cache")


def versions(locked: Locked) -> dict[str, str]:
    return {package.name: package.version for package in locked.packages}


def test_a_declared_glibc_decides_which_wheels_fit(solve: Solver, index: Index) -> None:
    """Of what a class cannot load nothing is chosen, whatever this machine could: an older version, or its sources."""
    machine = platform.machine()
    index.wheel("fast", "1.0", tag=f"py3-none-manylinux_2_17_{machine}")
    index.wheel("fast", "2.0", tag=f"py3-none-manylinux_2_28_{machine}")
    index.wheel("both", "1.0", tag=f"py3-none-manylinux_2_28_{machine}")
    index.sdist("both", "1.0")
    assert versions(solve("fast", newest_glibc=(2, 28))) == {"fast": "2.0"}
    assert versions(solve("fast", newest_glibc=(2, 20))) == {"fast": "1.0"}
    assert solve("both", newest_glibc=(2, 28)).not_reproducible == ()
    assert solve("both", newest_glibc=(2, 20)).not_reproducible == ("both",)


def test_packages_are_locked_by_url_and_hash(solve: Solver, index: Index) -> None:
    """The newest versions with their dependencies, each with its file's own sha256; nothing is installed."""
    index.wheel("alpha", "1.0")
    index.wheel("alpha", "2.0", ["Beta_X>=1"])
    index.wheel("beta_x", "1.5")
    locked = solve("alpha")
    assert versions(locked) == {"alpha": "2.0", "beta-x": "1.5"}
    (alpha,) = [package for package in locked.packages if package.name == "alpha"]
    assert alpha.url == f"{index.url}/files/alpha-2.0-py3-none-any.whl"
    assert alpha.sha256 == index.sha256("alpha-2.0-py3-none-any.whl")
    assert (alpha.manager, alpha.md5, alpha.build, alpha.subdir) == ("pip", None, None, None)
    assert locked.not_reproducible == ()
    assert not list(solve.prefix.site_packages.glob("alpha*"))


# ---------------------------------------------------------------------------------------------- beside conda's packages


def test_what_conda_installed_meets_a_requirement(solve: Solver, index: Index) -> None:
    """A version that only conda has is as good as one of the index, for the section and for its dependencies."""
    solve.prefix.conda_installs("beta", "1.5.post7")
    index.wheel("alpha", "1.0", ["beta>=1.5"])
    index.wheel("beta", "2.0")
    assert versions(solve("alpha", "beta")) == {"alpha": "1.0"}


@pytest.mark.parametrize("requirements", [["beta>=2"], ["alpha"], ["beta"]])
def test_conda_packages_are_never_replaced_silently(solve: Solver, index: Index, requirements: list[str]) -> None:
    """A section that needs another version, itself or through a dependency, is refused with uv's explanation."""
    solve.prefix.conda_installs("beta", "1.5")
    index.wheel("alpha", "1.0", ["beta>=2"])
    index.wheel("beta", "2.0")
    if requirements == ["beta"]:
        assert solve("beta").packages == ()
        return
    with pytest.raises(Unsatisfiable, match=r"beta==1\.5") as caught:
        solve(*requirements)
    assert "allow_replacing_conda" in (caught.value.hint or "")
    assert caught.value.fields["conda_packages"] == ["beta"]


def test_replacing_is_allowed_by_the_setting(solve: Solver, index: Index) -> None:
    """With the setting, only what must be replaced is, and it is named; the rest of conda's packages is kept."""
    solve.prefix.conda_installs("beta", "1.5")
    solve.prefix.conda_installs("gamma", "1.5")
    for version in ("1.5", "2.0"):
        index.wheel("beta", version)
        index.wheel("gamma", version)
    locked = solve("beta>=2", "gamma", allow_replacing_conda=True)
    assert versions(locked) == {"beta": "2.0"}
    assert locked.replaced == ("beta",)


def test_an_extra_of_a_conda_package_is_still_solved(solve: Solver, index: Index) -> None:
    """``beta[fast]`` brings what the extra needs; conda's ordinary dependencies are not solved a second time."""
    solve.prefix.conda_installs(
        "beta", "1.5", "Requires-Dist: absent>9\nProvides-Extra: fast\nRequires-Dist: speed; extra == 'fast'\n"
    )
    index.wheel("speed", "1.0")
    assert versions(solve("beta[fast]")) == {"speed": "1.0"}


def test_a_version_that_is_none_does_not_stop_the_solution(solve: Solver, index: Index) -> None:
    """A conda distribution with a version outside PEP 440, or without readable metadata, is left alone."""
    solve.prefix.conda_installs("odd", "2004c-final")
    (solve.prefix.site_packages / "empty-1.0.dist-info").mkdir()
    (solve.prefix.site_packages / "old-1.0-py3.11.egg-info").write_text("Name: old\nVersion: 1.0\n")
    index.wheel("alpha", "1.0", ["old"])
    assert versions(solve("alpha")) == {"alpha": "1.0"}


def test_constraints_bound_without_asking(solve: Solver, index: Index) -> None:
    """A constraint on something that nobody asks for adds nothing; on something else it counts."""
    for version in ("1.0", "2.0"):
        index.wheel("alpha", version)
    assert versions(solve("alpha", constraints=("alpha<2", "other==9"))) == {"alpha": "1.0"}


# ------------------------------------------------------------------------------------------------------ which artifact


def test_the_most_specific_wheel_is_locked(solve: Solver, index: Index) -> None:
    """Of the wheels that fit this interpreter the best is taken, whatever their order; foreign ones never."""
    major, minor, _ = solve.prefix.interpreter.version
    own = f"cp{major}{minor}"
    for tag in ("py3-none-any", f"{own}-abi3-linux_x86_64", f"{own}-{own}-manylinux_2_17_x86_64", "cp27-cp27m-win32"):
        index.wheel("fast", "1.0", tag=tag)
    index.sdist("fast", "1.0")
    (package,) = solve("fast").packages
    assert package.url.endswith(f"fast-1.0-{own}-{own}-manylinux_2_17_x86_64.whl")


def test_sources_are_locked_where_there_is_no_wheel(solve: Solver, index: Index) -> None:
    """A source distribution is locked by its hash, and said to be not reproducible."""
    index.sdist("sonly", "1.0")
    locked = solve("sonly")
    assert locked.packages[0].sha256 == index.sha256("sonly-1.0.tar.gz")
    assert locked.not_reproducible == ("sonly",)


def test_sources_need_to_be_allowed(solve: Solver, index: Index) -> None:
    """Without permission nothing is built; the error names the package and the setting. Names allow one by one."""
    index.wheel("alpha", "1.0", ["sonly", "tonly"])
    index.sdist("sonly", "1.0")
    index.sdist("tonly", "1.0")
    for allowed in ((), ("Sonly",), ("tonly",)):
        with pytest.raises(PolicyRefused, match="allow_sdists") as caught:
            solve("alpha", allow_sdists=allowed)
        assert caught.value.fields["package"] in {"sonly", "tonly"} - {name.lower() for name in allowed}
    assert set(versions(solve("alpha", allow_sdists=("sonly", "Tonly")))) == {"alpha", "sonly", "tonly"}


def test_allowing_sources_does_not_force_them(solve: Solver, index: Index) -> None:
    """A package that may be built and has a wheel is locked to the wheel."""
    index.wheel("both", "1.0")
    index.sdist("both", "1.0")
    locked = solve("both", allow_sdists=("both",))
    assert locked.packages[0].url.endswith(".whl")
    assert locked.not_reproducible == ()


def test_a_url_or_commit_needs_to_be_allowed_too(solve: Solver, index: Index, tmp_path: Path) -> None:
    """Sources do not get in by another door."""
    index.sdist("sonly", "1.0")
    repository, _ = _repository(tmp_path)
    for line in (f"sonly @ {index.url}/files/sonly-1.0.tar.gz", f"tool @ git+{repository}"):
        with pytest.raises(PolicyRefused, match="allow_sdists"):
            solve(line, allow_sdists=())


def _repository(tmp_path: Path, told: str = "") -> tuple[str, str]:
    path = tmp_path / "repository"
    path.mkdir()
    for member, text in source_tree("tool", "3.0").items():
        (path / member).write_text(told + text if member.endswith(".py") else text)

    def git(*arguments: str) -> str:
        command = ["git", "-C", path, "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-qm", "x")
    return path.as_uri(), git("rev-parse", "HEAD")


@pytest.mark.parametrize("line", ["tool @ git+{0}@main", "git+{0}#egg=tool"])
def test_version_control_is_locked_to_the_commit(solve: Solver, tmp_path: Path, line: str) -> None:
    """A branch becomes its commit of today, and the package is said to be not reproducible."""
    repository, commit = _repository(tmp_path)
    locked = solve(line.format(repository))
    assert [(package.name, package.version) for package in locked.packages] == [("tool", "3.0")]
    assert locked.packages[0].url == f"git+{repository}@{commit}"
    assert locked.packages[0].sha256 is None
    assert locked.not_reproducible == ("tool",)


def test_hashes_of_the_spec_choose_the_file(solve: Solver, index: Index) -> None:
    """``--hash`` picks among the files that fit; if none has it, the bytes are wrong."""
    major, minor, _ = solve.prefix.interpreter.version
    own = f"cp{major}{minor}-cp{major}{minor}-linux_x86_64"
    index.wheel("fast", "1.0")
    index.wheel("fast", "1.0", tag=own)
    wanted = index.sha256("fast-1.0-py3-none-any.whl")
    (package,) = solve(f"fast==1.0 --hash=sha256:{wanted} --hash=sha256:{'0' * 64}").packages
    assert package.sha256 == wanted
    with pytest.raises(Corrupt, match="fast"):
        solve(f"fast==1.0 --hash=sha256:{'0' * 64}")


# -------------------------------------------------------------------------------------------------------- pip's options


def test_pre_and_format_options_are_honoured(solve: Solver, index: Index) -> None:
    """Options that uv would skip or read otherwise mean what they mean to pip."""
    index.wheel("alpha", "1.0")
    index.wheel("alpha", "2.0b1")
    index.wheel("both", "1.0")
    index.sdist("both", "1.0")
    index.sdist("both", "2.0")
    assert versions(solve("alpha")) == {"alpha": "1.0"}
    assert versions(solve("alpha", options=(("--pre", ""),))) == {"alpha": "2.0b1"}
    assert versions(solve("both")) == {"both": "2.0"}
    assert versions(solve("both", options=(("--only-binary", "Both"),))) == {"both": "1.0"}
    assert versions(solve("both", options=(("--only-binary", ":all:"),))) == {"both": "1.0"}
    assert versions(solve("both", options=(("--prefer-binary", ""),))) == {"both": "1.0"}
    assert versions(solve("both==2.0", options=(("--prefer-binary", ""),))) == {"both": "2.0"}
    built = solve("both<2", options=(("--only-binary", ":all:"), ("--no-binary", ":all:")))
    assert built.packages[0].url.endswith("both-1.0.tar.gz")


def test_building_everything_from_source_spares_what_conda_installed(solve: Solver, index: Index) -> None:
    """``--no-binary :all:`` is about what pip installs: conda's packages stay met."""
    solve.prefix.conda_installs("beta", "1.5")
    index.sdist("both", "2.0")
    locked = solve("both", "beta", options=(("--no-binary", ":all:"),))
    assert versions(locked) == {"both": "2.0"}
    with pytest.raises(PolicyRefused, match="allow_sdists"):
        solve("both", options=(("--no-binary", "both"),), allow_sdists=())


def test_the_specs_own_refusal_of_sources_is_no_policy(solve: Solver, index: Index) -> None:
    """Where the spec itself says ``--only-binary``, the answer is about the spec, not about a setting."""
    index.sdist("sonly", "1.0")
    for allowed in (None, ("sonly",)):
        with pytest.raises(Unsatisfiable):
            solve("sonly", options=(("--only-binary", "sonly"),), allow_sdists=allowed)


def test_indexes_and_links_are_found(solve: Solver, index: Index, tmp_path: Path) -> None:
    """The best version of all indexes and directories counts, as with pip; ``--no-index`` leaves the directories."""
    elsewhere = replace(index, root=tmp_path / "else, where")
    elsewhere.files.mkdir(parents=True)
    elsewhere.wheel("alpha", "3.0")
    index.wheel("alpha", "1.0")
    index.wheel("beta", "1.0")
    links = (("--find-links", str(elsewhere.files)),)
    assert versions(solve("alpha", "beta", options=links)) == {"alpha": "3.0", "beta": "1.0"}
    assert versions(solve("alpha", options=(*links, ("--no-index", "")))) == {"alpha": "3.0"}
    with pytest.raises(Unsatisfiable):
        solve("beta", options=(*links, ("--no-index", "")))
    dead = (("--index-url", "http://127.0.0.1:1/"), ("--index-url", f"{index.url}/simple"))
    assert versions(solve("beta", options=dead)) == {"beta": "1.0"}


def test_an_extra_index_does_not_hide_the_first(solve: Solver, index: Index) -> None:
    """A newer version on the main index wins over an older one of an extra index, and the other way round."""
    index.wheel("alpha", "1.0")
    index.wheel("alpha", "2.0")
    only_old = index.root / "old" / "alpha"
    only_old.mkdir(parents=True)
    (only_old / "index.html").write_text(
        '<a href="../../files/alpha-1.0-py3-none-any.whl">alpha-1.0-py3-none-any.whl</a>'
    )
    old = f"{index.url}/old/"
    assert versions(solve("alpha", options=(("--extra-index-url", old),))) == {"alpha": "2.0"}
    assert versions(solve("alpha", index_url=old, extra_index_urls=(index.simple,))) == {"alpha": "2.0"}
    assert solve("alpha", index_url=old).packages[0].sha256 == index.sha256("alpha-1.0-py3-none-any.whl")


@pytest.mark.parametrize("flag", ["--process-dependency-links", "--global-option", "--user", "--require-hashes"])
def test_other_options_are_refused_by_name(solve: Solver, flag: str) -> None:
    """No option is ever dropped silently."""
    with pytest.raises(InvalidSpec, match=flag):
        solve("alpha", options=((flag, "x"),))


def test_what_a_spec_may_say_can_be_honoured() -> None:
    """The two tables agree: each option that a spec may keep has a translation, under every spelling."""
    for option in OPTIONS:
        if option.fate in {"kept", "renamed"}:
            for flag in (option.flag, *option.others):
                translate([(flag, "" if option.takes == "nothing" else "a=b")])


def test_dependencies_and_builds_can_be_steered(solve: Solver, index: Index) -> None:
    """``--no-deps`` locks only what is named; the build options reach the build."""
    index.wheel("alpha", "1.0", ["nosuch"])
    index.sdist("sonly", "1.0")
    options = (("--no-deps", ""), ("--no-build-isolation", ""), ("--config-settings", "key=value"))
    assert versions(solve("alpha", "sonly", options=options)) == {"alpha": "1.0", "sonly": "1.0"}


def test_later_packages_do_not_exist(solve: Solver, index: Index) -> None:
    """With a time set, only what was uploaded before it counts; what conda installed counts always."""
    solve.prefix.conda_installs("beta", "7.0")
    index.wheel("alpha", "1.0", ["beta"])
    index.wheel("alpha", "2.0", ["beta"])
    assert versions(solve("alpha", exclude_newer="2024-01-01T00:00:00Z")) == {"alpha": "1.0"}


# ---------------------------------------------------------------------------------------------------------- the network


def test_what_goes_wrong_has_its_class(solve: Solver, index: Index) -> None:
    """Missing, refused, broken, unreachable and offline are told apart, so that a caller knows whether to retry."""
    index.wheel("alpha", "1.0")
    with pytest.raises(Unsatisfiable, match="nosuch was not found"):
        solve("nosuch")
    with pytest.raises(Unsatisfiable, match="alpha>=9"):
        solve("alpha>=9")
    with pytest.raises(InvalidSpec):
        solve("alpha ==")
    with pytest.raises(NetworkError):
        solve("alpha", index_url="http://127.0.0.1:1/simple/")
    with pytest.raises(Offline):
        solve("alpha", network=replace(QUICK, is_offline=True), index_url="http://127.0.0.1:1/other/")
    index.status = 503
    with pytest.raises(NetworkError, match="503"):
        solve("alpha", index_url=f"{index.url}/a/")
    for status in (401, 403):
        index.status = status
        with pytest.raises(ChannelError, match=str(status)) as caught:
            solve("alpha", index_url=f"{index.url}/{status}/")
        assert not caught.value.is_transient


def test_a_build_that_fails_shows_its_output(solve: Solver, index: Index) -> None:
    """What the package's own build says is in the message."""
    path = index.sdist("sonly", "1.0")
    path.write_bytes(b"no archive")
    with pytest.raises(BuildFailed, match="sonly"):
        solve("sonly")


@pytest.mark.parametrize("how", ["url", "netrc"])
def test_credentials_open_an_index_and_stay_secret(solve: Solver, index: Index, tmp_path: Path, how: str) -> None:
    """A password from the settings' URL or netrc is used, and is neither in the lockfile nor in any event."""
    index.credentials = "user:s3cret"
    index.wheel("alpha", "1.0")
    with pytest.raises(ChannelError):
        solve("alpha")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password s3cret\n")
    netrc.chmod(0o600)
    if how == "url":
        locked = solve("alpha", index_url=index.simple.replace("://", "://user:s3cret@"))
    else:
        locked = solve("alpha", network=replace(QUICK, netrc_file=str(netrc)))
    assert locked.packages[0].url == f"{index.url}/files/alpha-1.0-py3-none-any.whl"
    assert "s3cret" not in repr(locked) + repr(solve.events)


def test_a_mirror_is_asked_and_not_named(solve: Solver, index: Index) -> None:
    """A mirror stands in for the index, and the lockfile names what it mirrors."""
    index.wheel("alpha", "1.0")
    network = replace(QUICK, mirrors=(("https://pypi.invalid/", (f"{index.url}/",)),))
    locked = solve("alpha", index_url="https://pypi.invalid/simple/", network=network)
    assert locked.packages[0].url == "https://pypi.invalid/files/alpha-1.0-py3-none-any.whl"


@pytest.mark.parametrize("name", ["alpha @ ", ""])
def test_a_requirement_by_url_comes_from_the_mirror(solve: Solver, index: Index, name: str) -> None:
    """A wheel that the spec names by its URL is had from the mirror, too, and locked under the URL of the spec."""
    index.wheel("alpha", "1.0")
    network = replace(QUICK, mirrors=(("https://wheels.invalid/", (f"{index.url}/",)),))
    locked = solve(f"{name}https://wheels.invalid/files/alpha-1.0-py3-none-any.whl", network=network)
    assert locked.packages[0].url == "https://wheels.invalid/files/alpha-1.0-py3-none-any.whl"


def test_nothing_of_the_callers_configuration_counts(
    solve: Solver, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uv's and pip's files and variables of whoever builds change nothing."""
    (tmp_path / "uv.toml").write_text('[pip]\nindex-url = "http://127.0.0.1:1/"\n')
    monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "uv.toml"))
    monkeypatch.setenv("UV_PRERELEASE", "allow")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    index.wheel("alpha", "1.0")
    index.wheel("alpha", "2.0b1")
    assert versions(solve("alpha")) == {"alpha": "1.0"}


def test_a_specs_variables_steer_no_tool(solve: Solver, index: Index, tmp_path: Path) -> None:
    """Whatever a spec sets, uv and git use the settings' own, and run nothing that the spec names."""
    ran = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho run >{ran}\nexit 1\n")
    program.chmod(0o755)
    config = tmp_path / "git" / "config"
    config.parent.mkdir()
    config.write_text(f"[core]\n\tsshCommand = {program}\n")
    index.wheel("alpha", "1.0")
    repository, _ = _repository(tmp_path)
    nowhere = "http://127.0.0.1:1"
    steering = {
        **dict.fromkeys(("GIT_SSH_COMMAND", "GIT_SSH", "GIT_PROXY_COMMAND", "GIT_EXEC_PATH", "BASH_ENV"), str(program)),
        **dict.fromkeys(("ENV", "SSH_ASKPASS", "GIT_ASKPASS", "SHELL", "PYTHONSTARTUP"), str(program)),
        **dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "All_Proxy", "ALL_PROXY", "all_proxy"), nowhere),
        **dict.fromkeys(("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NETRC", "TMPDIR"), "/none-such"),
        **dict.fromkeys(("PATH", "HOME", "PYTHONHOME", "UV_CACHE_DIR", "CONDA_PREFIX"), "/none-such"),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.sshCommand",
        "GIT_CONFIG_VALUE_0": str(program),
        "XDG_CONFIG_HOME": str(tmp_path),
        "UV_OFFLINE": "1",
    }
    locked = solve("alpha", f"tool @ git+{repository}@main", environ=steering)
    assert versions(locked) == {"alpha": "1.0", "tool": "3.0"}
    with pytest.raises((ChannelError, NetworkError)):
        solve("other @ git+ssh://git@127.0.0.1:1/other.git", environ=steering)
    assert not ran.exists()


def test_a_compiler_gets_the_specs_variables(solve: Solver, tmp_path: Path) -> None:
    """What builds from source are told by (compilers, flags, places of libraries) reaches them."""
    wanted = {"CC": "gcc-12", "CFLAGS": "-O1", "LDFLAGS": "-s", "CUDA_HOME": "/cuda", "PKG_CONFIG_PATH": "/pc"}
    seen = tmp_path / "seen.json"
    told = f"import json, os\njson.dump(dict(os.environ), open({str(seen)!r}, 'w'))\n"
    repository, _ = _repository(tmp_path, told)
    solve(f"tool @ git+{repository}", environ={**wanted, "LD_PRELOAD": "x"})
    environ = json.loads(seen.read_text())
    assert {name: environ.get(name) for name in wanted} == wanted
    assert "LD_PRELOAD" not in environ


def test_a_proxy_is_used(solve: Solver, index: Index) -> None:
    """A host that cannot be reached directly is reached through the settings' proxy, unless it is excepted."""
    index.wheel("alpha", "1.0")
    url = "http://pypi.invalid/simple/"
    proxied = replace(QUICK, proxies=(("http", index.url), ("no", "other.invalid")))
    locked = solve("alpha", index_url=url, network=proxied)
    assert locked.packages[0].url == "http://pypi.invalid/files/alpha-1.0-py3-none-any.whl"
    with pytest.raises(NetworkError):
        solve("beta", index_url=url, network=replace(proxied, proxies=(*proxied.proxies[:1], ("no", "pypi.invalid"))))


def test_tls_is_verified_against_the_settings_ca(solve: Solver, tls_index: Index, tmp_path: Path) -> None:
    """An unknown certificate is refused; with the CA file, or with verification off, the index is used."""
    tls_index.wheel("alpha", "1.0")
    with pytest.raises(NetworkError, match="certificate"):
        solve("alpha", index_url=tls_index.simple)
    known = replace(QUICK, ca_file=str(tls_index.root / "ca.pem"))
    unverified = replace(QUICK, verify_tls=False)
    trusted = (("--trusted-host", tls_index.url.removeprefix("https://")),)
    assert versions(solve("alpha", index_url=tls_index.simple, network=known)) == {"alpha": "1.0"}
    solve.uv_cache = tmp_path / "second-cache"
    assert versions(solve("alpha", index_url=tls_index.simple, network=unverified)) == {"alpha": "1.0"}
    solve.uv_cache = tmp_path / "third-cache"
    assert versions(solve("alpha", index_url=tls_index.simple, options=trusted)) == {"alpha": "1.0"}
