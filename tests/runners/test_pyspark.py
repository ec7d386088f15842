"""PySpark on a real local-cluster of two executors: one application for most claims, since a start takes long."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Listener
from pathlib import Path

import pytest
from example_site import Site
from places import CHECKOUT

pytestmark = [pytest.mark.runners, pytest.mark.slow]

LIMIT_S = 140
SPEC = "dependencies:\n  - python\n  - pip\n  - pip:\n      - humanize\n"
APPLICATION = Path(__file__).with_name("spark_application.py")


def until(is_so: Callable[[], bool], what: str) -> None:
    """Wait until something is so; fail when it takes too long."""
    deadline = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Application:
    """The application of `spark_application`, and a store of its own."""

    def __init__(self, directory: Path, variables: dict[str, str], connection: Connection) -> None:
        self.directory = directory
        self.variables = variables
        self._connection = connection

    @property
    def root(self) -> Path:
        return Path(self.variables["ENVMGR_ROOT"])

    def envmgr(self, *words: str | Path) -> tuple[int, dict[str, object]]:
        """Run a command of envmgr's; its exit code and record."""
        done = subprocess.run(
            ["envmgr", *words, "--json"],
            env=self.variables, cwd=self.directory, stdout=subprocess.PIPE, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout)

    def begin(self, **request: object) -> None:
        """Let a job begin; `answer` waits for its end."""
        self._connection.send(request)

    def answer(self) -> dict[str, object]:
        if not self._connection.poll(LIMIT_S):
            said = (self.directory / "log").read_text("utf-8", "replace")
            pytest.fail(f"the job has not ended; so far:\n{said[-4000:]}")
        found = self._connection.recv()
        assert isinstance(found, dict)
        return found

    def rows(self, **request: object) -> list[dict[str, object]]:
        """Run a job that must succeed; return what its tasks observed."""
        self.begin(**request)
        found = self.answer()
        assert "error" not in found, found["error"]
        return found["rows"]  # type: ignore[return-value]  # as the application makes them

    def error(self, **request: object) -> str:
        """Run a job that must fail; return what its user reads."""
        self.begin(**request)
        found = self.answer()
        assert "rows" not in found, found
        return str(found["error"])

    def stop(self) -> None:
        self._connection.close()

    def users(self, name: str) -> set[int]:
        """Return the processes because of which the environment is not removed."""
        code, record = self.envmgr("remove", name)
        assert code == 7, record
        error = record["error"]
        assert isinstance(error, dict)
        assert error["code"] == "in_use"
        return {user["pid"] for user in error["fields"]["users"]}


def _spark_home(site: Site, directory: Path) -> Path:
    """Return a SPARK_HOME whose ``work`` is a test's own: the executors of a local-cluster work there."""
    home = directory / "spark"
    home.mkdir()
    (pyspark,) = site.environment.prefix.glob("lib/python3.*/site-packages/pyspark")
    for path in pyspark.iterdir():
        (home / path.name).symlink_to(path)
    return home


@pytest.fixture(scope="module")
def application(
    site: Site, make_store: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Application]:
    """Submit the application with the spec travelling along; nothing is built yet."""
    directory = tmp_path_factory.mktemp("spark")
    variables = site.variables(root=make_store(directory / "store"), home=directory)
    variables["SPARK_HOME"] = str(_spark_home(site, directory))
    spec = directory / "environment.yml"
    spec.write_text(SPEC, encoding="utf-8")
    words = subprocess.run(
        ["envmgr", "spark-conf", spec, "--create", "--as", "arguments"],
        env=variables, stdout=subprocess.PIPE, text=True, check=True,
    ).stdout.split()  # fmt: skip
    options = ["--master", "local-cluster[2,1,1024]", "--conf", "spark.scheduler.minRegisteredResourcesRatio=1"]
    options += ["--conf", "spark.scheduler.maxRegisteredResourcesWaitingTime=120s"]  # the second one may be late
    options += ["--conf", "spark.log.level=WARN", "--conf", "spark.ui.enabled=false"]
    address = str(directory / "s")
    log = directory / "log"
    with Listener(address, "AF_UNIX") as listener, log.open("wb") as out:
        process = subprocess.Popen(
            ["spark-submit", *options, *words, APPLICATION, address],
            env=variables, cwd=directory, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
        try:
            listener._listener._socket.settimeout(LIMIT_S)  # it has no limit of its own
            with listener.accept() as connection:
                assert connection.poll(LIMIT_S), log.read_text("utf-8", "replace")
                connection.recv()
                yield Application(directory, variables, connection)
            process.wait(LIMIT_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class TestOneApplication:
    """In this order: what the first job makes is there for the others, and the last test ends the application."""

    def test_built_once_for_two_executors(self, application: Application) -> None:
        """The spec travels with the application: of two executors with eight tasks each, one builds, both use it."""
        rows = application.rows(tasks=16)
        name = application.envmgr("name", "environment.yml")[1]["name"]
        assert len(rows) == 16
        assert {Path(row["prefix"]).name for row in rows} == {name}
        assert len({row["daemon"] for row in rows}) == 2
        assert len({row["cwd"] for row in rows}) == 2
        assert [build.name[-2:] for build in (application.root / "builds").iterdir()] == ["-1"]

    def test_leased_for_the_executors_lives(self, application: Application) -> None:
        """No task runs, yet removal is refused and names the daemon of each executor."""
        name = application.envmgr("name", "environment.yml")[1]["name"]
        daemons = {row["daemon"] for row in application.rows(tasks=2)}
        assert len(daemons) == 2
        assert daemons <= application.users(name)

    def test_the_lease_outlives_the_daemon(self, application: Application) -> None:
        """A worker whose daemon was killed finishes its task in an environment that nobody can remove meanwhile."""
        name = application.envmgr("name", "environment.yml")[1]["name"]
        hold = application.directory / "hold"
        hold.mkdir()
        application.begin(tasks=2, hold=str(hold))
        until(lambda: len(list(hold.glob("at-*"))) == 2, "the tasks have not begun")
        workers = {int(path.name.removeprefix("at-")) for path in hold.glob("at-*")}
        daemons = {_parent(worker) for worker in workers}
        for daemon in daemons:
            os.kill(daemon, signal.SIGKILL)
        until(lambda: not daemons & {_parent(worker) for worker in workers}, "the daemons live")
        users = application.users(name)
        assert workers <= users
        assert not daemons & users
        (hold / "go").touch()
        answer = application.answer()
        assert {row["pid"] for row in answer["rows"]} == workers
        assert len(application.rows(tasks=4)) == 4

    def test_a_second_environment(self, application: Application, site: Site) -> None:
        """Another store and environment for one job: here the site's own, which has what a UDF of pandas needs."""
        prefix = site.environment.prefix
        variables = {"ENVMGR_ENV": "site", "ENVMGR_SPEC": "", "ENVMGR_ROOT": str(prefix.parents[3])}
        rows = application.rows(pandas=True, tasks=1, variables=variables)
        assert rows == [{"prefix": str(prefix), "number": "1"}]

    def test_an_unknown_name(self, application: Application) -> None:
        """A name that is not on the executors' host reaches the user in the exception, within seconds."""
        began = time.monotonic()
        error = application.error(variables={"ENVMGR_ENV": "nobody", "ENVMGR_SPEC": ""})
        assert time.monotonic() - began < 60
        assert "SparkException" in error
        assert f"envmgr-python: there is no environment 'nobody' in {application.root}" in error
        assert "hint: " in error

    def test_a_spec_that_cannot_be_solved(self, application: Application) -> None:
        """The solver's words reach the user; Spark tries four times, envmgr once."""
        path = application.directory / "impossible.yml"
        path.write_text("dependencies:\n  - python\n  - no-such-package\n", encoding="utf-8")
        began = time.monotonic()
        error = application.error(variables={"ENVMGR_SPEC": str(path)})
        assert time.monotonic() - began < 60
        assert "envmgr-python: " in error
        assert "no-such-package" in error
        failure = application.envmgr("show", str(path))[1]["failure"]
        assert isinstance(failure, dict)
        assert failure["attempts"] == 1

    def test_a_spec_that_cannot_be_read(self, application: Application) -> None:
        """What is wrong in a document is told with its place."""
        path = application.directory / "broken.yml"
        path.write_text("dependencies:\n  - python ==\n", encoding="utf-8")
        error = application.error(variables={"ENVMGR_SPEC": str(path)})
        assert f"envmgr-python: {path}: line 2, column 5: " in error

    def test_another_minor_version(self, application: Application, other_channel: str) -> None:
        """Spark itself tells that the environment's Python is not the driver's, and names both."""
        path = application.directory / "other.yml"
        path.write_text(f"channels: ['{other_channel}', nodefaults]\ndependencies: [python]\n", encoding="utf-8")
        code, record = application.envmgr("create", str(path))
        assert code == 0, record
        error = application.error(variables={"ENVMGR_SPEC": str(path)})
        assert "PYTHON_VERSION_MISMATCH" in error

    def test_removed_when_the_executors_are_gone(self, application: Application) -> None:
        """With the application its executors end, and with them the lease."""
        name = application.envmgr("name", "environment.yml")[1]["name"]
        assert application.users(name)
        application.stop()
        until(lambda: application.envmgr("remove", name)[0] == 0, "the environment is still in use")
        assert not (application.root / "envs" / name).exists()


def test_example(run_example: Callable[..., str]) -> None:
    """examples/pyspark: a job in an environment, by spark-submit, on both executors."""
    run_example("pyspark")


@pytest.fixture(scope="module")
def other_channel(site: Site) -> str:
    """Return the URL of a channel that has another Python than the site's."""
    root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    (own,) = site.environment.prefix.glob("lib/python3.*/os.py")
    others = {f"3.{minor}": sorted(root.glob(f"3.{minor}.*/bin/python")) for minor in (13, 12, 10, 11)}
    for version, found in others.items():
        if found and own.parent.name != f"python{version}":
            made = subprocess.run(
                [CHECKOUT / "scripts" / "demo_channel", CHECKOUT / ".test-channel" / version, "--python", found[0]],
                stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            return made.stdout.splitlines()[-1]
    pytest.skip("no other Python of pyenv on this machine")


def _parent(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[1])
