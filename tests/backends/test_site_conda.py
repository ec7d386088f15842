"""The site's conda: how it is found and called, what its answers mean, and that only one at a time uses a cache.

Where it is not a real conda it is the stand-in of `stand_in_conda`, which records how it was called.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import stand_in_conda
from backend_hosts import SUBDIR, Host, Limit
from demo.packages import fabricate, index
from fakes.processes import Forked
from stand_in_conda import calls, install

from envmgr import errors, lockfile
from envmgr.backends.conda import exclusive, executable
from envmgr.backends.conda.answers import failure, last_object
from envmgr.backends.conda.executable import DROP_IN_MARK, find, package_caches
from envmgr.errors import BuildFailed, PermissionRefused, TimedOut, Unsatisfiable, UsageError
from envmgr.events import Event, ignore
from envmgr.wire.pipe import Channel

MICROMAMBA = {"says": "2.0.5", "info": {"libmamba version": "2.0.5", "micromamba version": "2.0.5"}}
NOTHING = {"PATH": "/nonexistent"}


# ---------------------------------------------------------------------------------------------------------- finding it


@pytest.mark.parametrize(
    ("orders", "expected", "is_libmamba"),
    [
        ({"says": "conda 24.11.1"}, ("conda", "24.11.1"), False),
        ({"says": "mamba 1.5.8\nconda 23.11.0"}, ("mamba", "1.5.8"), False),
        ({"says": "2.0.5", "info": {"libmamba version": "2.0.5", "mamba version": "2.0.5"}}, ("mamba", "2.0.5"), True),
        (MICROMAMBA, ("micromamba", "2.0.5"), True),
    ],
    ids=["conda", "mamba 1", "mamba 2", "micromamba"],
)
def test_it_is_what_it_says_it_is(
    tmp_path: Path, orders: dict[str, object], expected: tuple[str, str], is_libmamba: bool
) -> None:
    """Kind and version are the program's own answer, whatever its file is called."""
    conda = find(str(install(tmp_path, "anything", **orders)), NOTHING)
    assert (conda.kind, conda.version) == expected
    assert conda.is_libmamba is is_libmamba


def test_where_it_is_looked_for(tmp_path: Path) -> None:
    """The setting, CONDA_EXE, MAMBA_EXE, MLFLOW_CONDA_HOME, PATH: the first that answers; of the setting no other."""
    made = {name: install(tmp_path / name / "bin", says=f"conda 1.{name}") for name in ("1", "2", "3", "4", "5")}
    environ = {
        "CONDA_EXE": str(made["2"]),
        "MAMBA_EXE": str(made["3"]),
        "MLFLOW_CONDA_HOME": str(tmp_path / "4"),
        "PATH": f"/nonexistent:{made['5'].parent}",
    }
    assert find(str(made["1"]), environ).version == "1.1"
    for key, expected in (("CONDA_EXE", "1.2"), ("MAMBA_EXE", "1.3"), ("MLFLOW_CONDA_HOME", "1.4"), ("PATH", "1.5")):
        assert find(None, environ).version == expected
        del environ[key]
    with pytest.raises(UsageError, match="no conda, mamba or micromamba"):
        find(None, environ)
    with pytest.raises(UsageError, match="cannot be started"):
        find(str(tmp_path / "none"), {"PATH": str(made["5"].parent)})


def test_envmgrs_own_home_is_never_taken(tmp_path: Path) -> None:
    """A drop-in home is passed over, also behind a link, and refused where the setting names it; what runs is told."""
    drop_in = install(tmp_path / "home" / "bin", says="conda 99.9")
    (tmp_path / "home" / DROP_IN_MARK).touch()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "conda").symlink_to(drop_in)
    real = install(tmp_path / "real", says="conda 24.1.0")
    path = os.pathsep.join(map(str, (drop_in.parent, tmp_path / "linked", real.parent)))
    assert find(None, {"CONDA_EXE": str(drop_in), "PATH": path}).path == real
    with pytest.raises(UsageError, match="envmgr's own drop-in"):
        find(str(drop_in), NOTHING)
    assert calls(real, "--version")[0]["environ"][executable.PASSED_ON] == "1"


def test_package_caches_are_what_it_says(tmp_path: Path) -> None:
    """conda's are asked for, in the environment that it will run in."""
    conda = find(str(install(tmp_path, says="conda 24.1.0", config={"pkgs_dirs": ["/a/pkgs", "/b/pkgs"]})), NOTHING)
    assert package_caches(conda, {"CONDARC": "/x"}) == (Path("/a/pkgs"), Path("/b/pkgs"))
    assert calls(conda.path, "config")[0]["environ"]["CONDARC"] == "/x"
    silent = find(str(install(tmp_path / "silent", says="conda 24.1.0")), NOTHING)
    with pytest.raises(BuildFailed, match="does not tell its package caches"):
        package_caches(silent, {})


def test_doctor_tells_which(tmp_path: Path) -> None:
    """With this backend the check names executable and version, or says that there is none."""
    path = install(tmp_path / "bin", says="conda 24.1.0")
    command = [sys.executable, "-m", "envmgr", "doctor", "--only", "backend", "--json"]
    given = {"PATH": "/nonexistent", "HOME": str(tmp_path), "ENVMGR_ROOT": str(tmp_path / "store")}
    found = []
    for executable_path in (path, tmp_path / "none"):
        environ = {**given, "ENVMGR_BACKEND": "conda", "ENVMGR_CONDA_EXECUTABLE": str(executable_path)}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
        (one,) = json.loads(done.stdout)["findings"]
        found.append((done.returncode == 0, one["status"], one["message"]))
    assert found[0] == (True, "ok", f"conda: conda 24.1.0 ({path})")
    assert found[1][:2] == (False, "error")


# ------------------------------------------------------------------------------------------------------ one at a time


def test_one_at_a_time_uses_a_package_cache(tmp_path: Path) -> None:
    """The second waits, says once for whom, and stops at its deadline; a child that has the lock keeps it."""
    told: list[Event] = []
    with exclusive.held([tmp_path / "pkgs"], deadline=Limit(), report=ignore) as fds:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=fds)
    with (
        pytest.raises(TimedOut),
        exclusive.held([tmp_path / "pkgs"], deadline=Limit(0.3), report=told.append),
    ):
        pytest.fail("two at once")
    assert [event.kind for event in told] == ["begin", "end"]
    assert str(tmp_path / "pkgs") in told[0].message
    child.communicate(b"\n")
    with exclusive.held(
        [tmp_path / "pkgs", tmp_path / "pkgs" / ".." / "pkgs"], deadline=Limit(5), report=ignore
    ) as fds:
        assert len(fds) == 1


def test_a_lock_that_was_deleted_is_none(tmp_path: Path) -> None:
    """Whoever comes after the lock's file was deleted from under its holder, as `conda clean` may, makes a new one."""
    with exclusive.held([tmp_path], deadline=Limit(), report=ignore):
        (tmp_path / exclusive.LOCK_NAME).unlink()
        with exclusive.held([tmp_path], deadline=Limit(5), report=ignore) as fds:
            assert os.fstat(fds[0]).st_ino == (tmp_path / exclusive.LOCK_NAME).stat().st_ino


def test_the_lock_is_for_those_who_may_write_to_the_cache(tmp_path: Path) -> None:
    """Whatever the umask, whoever shares a cache can open its lock, and nobody else, who could hold it for ever."""
    for mode, expected in ((0o755, 0o600), (0o775, 0o660), (0o777, 0o666)):
        cache = tmp_path / f"{mode:o}"
        cache.mkdir()
        cache.chmod(mode)
        before = os.umask(0o077)
        try:
            with exclusive.held([cache], deadline=Limit(), report=ignore):
                assert (cache / exclusive.LOCK_NAME).stat().st_mode & 0o777 == expected
        finally:
            os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user: needs root")
def test_who_cannot_write_to_a_cache_waits_for_nobody() -> None:
    """A cache of another user's needs no lock; one that both write to, but whose lock is closed to him, is refused."""
    with tempfile.TemporaryDirectory(prefix="cache-") as directory:  # pytest's own are closed to other users
        cache = Path(directory)
        cache.chmod(0o755)

        def locks_of_another() -> int | str:
            os.setgid(65534)
            os.setuid(65534)
            try:
                with exclusive.held([cache], deadline=Limit(), report=ignore) as fds:
                    return len(fds)
            except PermissionRefused as error:
                return error.message

        with exclusive.held([cache], deadline=Limit(), report=ignore):
            assert Forked(locks_of_another).result() == 0
        cache.chmod(0o777)
        assert "not ours to read" in str(Forked(locks_of_another).result())
        (cache / exclusive.LOCK_NAME).chmod(0o644)
        assert Forked(locks_of_another).result() == 1


# ------------------------------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize(
    ("answer", "expected", "is_transient"),
    [
        ({"exception_name": "PackagesNotFoundError", "message": "no x"}, "unsatisfiable", False),
        ({"exception_name": "LibMambaUnsatisfiableError", "message": "no x"}, "unsatisfiable", False),
        ({"exception_name": "ResolvePackageNotFound", "message": "x"}, "unsatisfiable", False),
        ({"exception_name": "InvalidMatchSpec", "message": "x==="}, "invalid_spec", False),
        ({"exception_name": "CondaHTTPError", "message": "HTTP 000 CONNECTION FAILED for url <u>"}, "network", True),
        ({"exception_name": "CondaHTTPError", "message": "HTTP 503 SERVICE UNAVAILABLE for url <u>"}, "network", True),
        ({"exception_name": "CondaHTTPError", "message": "HTTP 401 UNAUTHORIZED for url <u>"}, "channel", False),
        ({"exception_name": "UnavailableInvalidChannel", "message": "HTTP 404 NOT FOUND for c"}, "channel", False),
        ({"exception_name": "CondaToSNonInteractiveError", "message": "Terms of Service"}, "channel", False),
        ({"exception_name": "LockError", "message": "failed to lock"}, "timed_out", True),
        ({"exception_name": "NoSpaceLeftError", "message": "full"}, "no_space", False),
        ({"exception_name": "NotWritableError", "message": "[Errno 28] No space left on device"}, "no_space", False),
        ({"exception_name": "NotWritableError", "message": "not writable"}, "permission", False),
        ({"exception_name": "ChecksumMismatchError", "message": "md5"}, "corrupt", False),
        ({"exception_name": "AssertionError", "error": "No package cache records found"}, "build_failed", False),
        ({"success": False, "solver_problems": ["nothing provides requested x"]}, "unsatisfiable", False),
    ],
    ids=lambda value: str(value.get("exception_name", "solver_problems")) if isinstance(value, Mapping) else None,
)
def test_what_conda_says_as_an_error_of_ours(answer: dict[str, object], expected: str, is_transient: bool) -> None:
    """Each of conda's errors is the one a caller can act on, with conda's own text, a hint, and no credentials."""
    said = str(answer.get("message") or answer.get("error") or "nothing provides requested x")
    if "message" in answer:
        answer = {**answer, "message": f"{said} https://me:secret@host/x"}
    error = failure(answer, [], "cannot solve")
    assert (error.code, error.is_transient) == (expected, is_transient)
    assert said in error.message
    assert "secret" not in str(error)
    assert errors.TABLE[expected] is type(error)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("error    libmamba Could not solve for environment specs", "unsatisfiable"),
        ("critical libmamba Could not resolve host: conda.anaconda.org", "network"),
        ("error    libmamba Could not set lock. Could not acquire lock", "timed_out"),
        ("critical libmamba Multi-download failed. Reason: Transfer finalized, status: 404 [u]", "channel"),
        ("critical libmamba filesystem error: No space left on device", "no_space"),
        ("Segmentation fault", "build_failed"),
    ],
)
def test_what_micromamba_says_on_its_standard_error(line: str, expected: str) -> None:
    """Without an answer the text decides."""
    assert failure(None, ["warning  libmamba something", line], "cannot solve").code == expected


def test_the_answer_among_noise() -> None:
    """Warnings, progress and a first object (mamba 1) may stand before the answer."""
    assert last_object('warning {x\nDryRunExit: Dry run.\n{"a": 1}\x00{"b": {"c": "{"}}\ntail') == {"b": {"c": "{"}}
    assert last_object("no answer") is None


# ------------------------------------------------------------------------------------------------------------- builds


@pytest.fixture
def standing_in(host: Host, tmp_path: Path) -> Path:
    """A stand-in for micromamba, which the host's builds use."""
    path = install(tmp_path / "site" / "bin", "micromamba", **MICROMAMBA)
    host.defaults |= {"backend": "conda", "conda_executable": str(path)}
    return path


def test_micromamba_solves_and_rattler_links(host: Host, standing_in: Path, channel: Path) -> None:
    """What it finds is locked with its hashes and linked; it is called with exactly what was asked for, and quietly."""
    os.environ["CONDA_CHANNELS"] = "elsewhere"
    try:
        built = host.build(channel.as_uri(), conda=("app >=1", "lib"), virtual_package_overrides=(("cuda", "12.4"),))
    finally:
        del os.environ["CONDA_CHANNELS"]
    assert {path.name for path in (built.prefix / "conda-meta").glob("*.json")} == {"app-1.0-0.json", "lib-2.0-0.json"}
    locked = {one.name: one for one in lockfile.parse(built.locked[0], SUBDIR).packages}
    assert locked["app"].dependencies == (("lib", ">=1"),)
    assert locked["lib"].sha256
    (call,) = calls(standing_in)
    assert call["argv"] == [
        "create", "--prefix", str(built.build_dir / "tmp" / "never-made"), "--dry-run", "--json", "--quiet", "--yes",
        "--no-pin", "--no-py-pin", "--override-channels", "--channel", channel.as_uri(), "app >=1", "lib",
    ]  # fmt: skip
    environ = call["environ"]
    expected = {
        "CONDA_PKGS_DIRS": str(host.packages / "conda"),
        "CONDA_SUBDIR": SUBDIR,
        "CONDA_REGISTER_ENVS": "false",
        "MAMBA_CHANNEL_PRIORITY": "strict",
        "CONDA_ALLOW_SOFTLINKS": "false",
        "CONDA_REPORT_ERRORS": "false",
        "CONDA_OVERRIDE_CUDA": "12.4",
        executable.PASSED_ON: "1",
    }
    assert {key: environ.get(key) for key in expected} == expected
    assert "CONDA_CHANNELS" not in environ
    assert (environ["HOME"], "CONDA_EXE" in environ) == (os.environ["HOME"], False)
    assert str(host.packages.resolve() / "conda" / exclusive.LOCK_NAME) in call["open"]  # as long as it lives
    assert f"micromamba 2.0.5 ({standing_in})" in built.log


def test_credentials_are_in_no_list_of_processes(host: Host, standing_in: Path, channel: Path) -> None:
    """A channel with a login, and one of several URLs, go by a name that a private file explains."""
    (standing_in.parent / "orders.json").write_text('{"says": "2.0.5", "answer": "{\\"actions\\": {}}"}')
    secret = Channel("ours", ("https://me:secret@channel.invalid/ours",))
    with pytest.raises(BuildFailed):
        host.build(secret, conda=("ours::app",), lockfile=None, action="lock", backend="conda-solve", pip=("x",))
    (call,) = calls(standing_in)
    assert call["argv"][-2:] == ["envmgr-0", "envmgr-0::app"]
    assert "secret" not in str(call)
    assert host.last is not None
    assert "secret" not in host.last.log
    condarc = host.last.build_dir / "tmp" / "conda" / "condarc"
    assert (condarc.stat().st_mode & 0o777, condarc.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert "me:secret@channel.invalid" in condarc.read_text()


def test_a_mirror_is_asked_and_the_channel_locked(host: Host, standing_in: Path, channel: Path) -> None:
    """conda looks for a channel at its first mirror; the lockfile has the channel's own URL, as with rattler."""
    mirrors = (("https://channel.invalid", (channel.parent.as_uri(), "https://other.invalid")),)
    made = host.build(f"https://channel.invalid/{channel.name}", conda=("app",), action="lock", mirrors=mirrors)
    assert calls(standing_in)[0]["argv"][-2:] == [channel.as_uri(), "app"]
    urls = [one.url for one in lockfile.parse(made.locked[0], SUBDIR).packages]
    assert [url.rpartition("/")[0].rpartition("/")[0] for url in urls] == ["https://channel.invalid/chan"] * 2


def test_an_answer_beyond_the_request_is_refused(host: Host, standing_in: Path, tmp_path: Path, channel: Path) -> None:
    """A package from a channel that nobody asked for, and one that conda has from nowhere, are errors."""
    other = tmp_path / "other"
    fabricate(other, "app", "9.0")
    index(other)
    given = stand_in_conda.answer
    os.environ["CONDA_SUBDIR"] = SUBDIR
    try:
        foreign = given(("create", "--channel", other.as_uri(), "app"))
    finally:
        del os.environ["CONDA_SUBDIR"]
    install(standing_in.parent, "micromamba", **MICROMAMBA, answer=json.dumps(foreign))
    with pytest.raises(BuildFailed, match="none of the channels asked for"):
        host.build(channel.as_uri(), conda=("app",), action="lock")
    nowhere = {"actions": {"LINK": [{"name": "app", "version": "9.0", "dist_name": "app-9.0-0"}]}}
    install(standing_in.parent, "micromamba", **MICROMAMBA, answer=json.dumps(nowhere))
    with pytest.raises(BuildFailed, match="does not tell where it has app from"):
        host.build(channel.as_uri(), conda=("app",), action="lock")


def test_what_it_cannot_do_and_its_failures_reach_the_caller(host: Host, standing_in: Path, channel: Path) -> None:
    """exclude_newer is refused; a failed solve tells conda's reason; one that hangs ends with the caller's deadline."""
    with pytest.raises(UsageError, match="cannot leave out packages by their time"):
        host.build(channel.as_uri(), conda=("app",), action="lock", exclude_newer="2025-01-01")
    problems = '{"solver_problems": ["nothing provides requested app >=9"], "success": false}'
    install(standing_in.parent, "micromamba", **MICROMAMBA, answer=problems, exit=1)
    with pytest.raises(Unsatisfiable, match="nothing provides requested app >=9"):
        host.build(channel.as_uri(), conda=("app >=9",), action="lock")
    install(standing_in.parent, "micromamba", **MICROMAMBA, hang=True)
    limit = Limit()

    def end_it(event: Event) -> None:
        if "create --prefix" in event.message:
            limit.error = TimedOut("the test's time is up")

    with pytest.raises(TimedOut):
        host.run(host.request(channel.as_uri(), conda=("app",)), limit=limit, on_event=end_it)


@pytest.mark.slow
def test_a_real_conda_explains_itself(site_conda: Path, host: Host, channel: Path) -> None:
    """conda's own code: what cannot be met is `Unsatisfiable`, with the requirement that stands in the way."""
    host.defaults |= {"backend": "conda", "conda_executable": str(site_conda)}
    with pytest.raises(Unsatisfiable, match="lib"):
        host.build(channel.as_uri(), conda=("app", "lib >=3"), action="lock")
