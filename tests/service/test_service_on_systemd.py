"""The installed service on a real systemd: its start and end, its users, what it may do, what a crash costs.

The tests share one host and leave its service running; each makes the environments that it needs.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest
from service_hosts import SERVICE, STORE, ServiceHost, ended

from envmgr.errors import EnvironmentNotFound

pytestmark = pytest.mark.slow

HOME = "/opt/envmgr/condahome"
_CAPABILITIES = 1 << 2 | 1 << 19  # CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE
_USE = """\
import sys, envmgr
with envmgr.ensure(sys.argv[1]) as env:
    print(env.name, flush=True)
    sys.stdin.read()
"""


def library(host: ServiceHost, user: str, word: str) -> subprocess.Popen[str]:
    """Start a program that uses an environment through the library until its standard input ends."""
    python = "/opt/envmgr/current/bin/python"
    return host.box.start(python, "-I", "-c", _USE, word, user=user, stdin=subprocess.PIPE)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextlib.contextmanager
def slow_build(host: ServiceHost, number: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A spec, and alice's command that creates it and waits for a package that does not come before the gate opens."""
    spec = host.spec(f"slow-{number}")
    host.gate("close")
    process = host.start("alice", "create", spec, "--json")
    try:
        host.wait_until_asked(f"slow-{number}")
        yield spec, process
    finally:
        host.gate("open")
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture(autouse=True)
def _many_starts(host: ServiceHost) -> None:
    """Let systemd not count the starts of other tests: it refuses many in a short time."""
    host.box.ok("systemctl", "reset-failed")


def test_it_is_up(host: ServiceHost) -> None:
    """It has told systemd that it is ready and of what; it runs as its own user; systemd has nothing to complain of."""
    assert host.box.property(SERVICE, "ActiveState") == "active"
    assert STORE in host.box.property(SERVICE, "StatusText")
    assert host.box.sh(f"stat -c %U /proc/{host.main_pid}") == "envmgr"
    units = "/etc/systemd/system/envmgr.service /etc/systemd/system/envmgr.socket"
    assert host.box.sh(f"systemd-analyze verify --man=no {units} 2>&1") == ""
    assert host.box.ok("systemctl", "--failed", "--no-legend", "--plain") == ""
    assert host.box.ok("systemctl", "is-enabled", SERVICE, "envmgr.socket").split() == ["enabled", "enabled"]


def test_status(host: ServiceHost) -> None:
    """Any user sees units, socket, versions and store."""
    record = host.ready("mallory", "service", "status")
    assert [unit["active"] for unit in record["units"]] == ["active", "active"]
    assert record["units"][0]["pid"] == host.main_pid
    assert (record["mode"], record["group"]) == ("0660", "envusers")
    assert record["version"].startswith(record["this_version"])
    assert ", owner envmgr" in host.box.ok("envmgr", "service", "status")


def test_only_root_installs(host: ServiceHost) -> None:
    """Another user is refused and reads the command that works."""
    for word in ("install", "uninstall"):
        error = host.envmgr("alice", "service", word).error
        assert error["code"] == "permission"
        assert error["hint"].startswith(f"sudo /usr/local/bin/envmgr service {word}")


def test_what_it_may_do(host: ServiceHost) -> None:
    """It can look at other users' processes and write its store, and nothing else; no program can give it more."""
    status = host.status_of(host.main_pid)
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == _CAPABILITIES
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    inside = ("nsenter", f"--target={host.main_pid}", "--mount")
    as_daemon = (*inside, "setpriv", "--reuid=envmgr", "--regid=envmgr", "--clear-groups", "touch")
    assert host.box.run(*as_daemon, f"{STORE}/.probe")[0] == 0
    host.box.ok("rm", f"{STORE}/.probe")
    assert host.box.run(*as_daemon, "/run/envmgr/x")[0] != 0
    for path in ("/etc/envmgr/x", "/opt/envmgr/x", "/var/lib/x", "/usr/x"):  # root's own right to write is not enough
        assert "Read-only file system" in host.box.run(*inside, "touch", path)[2], path
    assert host.box.ok(*inside, "ls", "/home", "/root", "/tmp").split() == ["/home:", "/root:", "/tmp:"]


def test_builders_have_no_capabilities(host: ServiceHost) -> None:
    """What builds run (tools, activation scripts) gets nothing of what the daemon may do."""
    with slow_build(host, 1) as (_, client):
        daemon, *others = host.processes()
        assert daemon == host.main_pid
        assert others
        for pid in others:
            status = host.status_of(pid)
            assert [int(status[key], 16) for key in ("CapPrm", "CapEff", "CapAmb")] == [0] * 3, status["Name"]
        host.gate("open")
        assert ended(client).code == 0


def test_permissions(host: ServiceHost) -> None:
    """The socket is its group's, the store everybody's to read and nobody else's to write."""
    assert host.box.ok("stat", "-c", "%a %U %G", "/run/envmgr/envmgr.sock") == "660 root envusers"
    assert host.box.ok("stat", "-c", "%a %U %G", "/run/envmgr") == "755 root root"
    assert host.box.ok("stat", "-c", "%a %U %G", STORE) == "755 envmgr envmgr"
    host.ready("alice", "create", host.spec("app"))
    writable = ("find", STORE, "-writable", "-not", "-type", "l", "-print", "-quit")
    for user in ("alice", "carol"):
        assert host.box.run(*writable, user=user)[1] == ""
    foreign = ("find", STORE, "-not", "-user", "envmgr", "-print", "-quit")
    assert host.box.ok(*foreign) == ""


def test_users_share_an_environment(host: ServiceHost) -> None:
    """One makes it, another uses it through the library, the admin sees whom he would disturb and may remove it."""
    spec = host.spec("app", "lib")
    made = host.ready("alice", "create", spec)
    name = made["name"]
    again = host.ready("bob", "create", spec)
    assert (made["built"], again["built"], again["build_id"]) == (True, False, made["build_id"])
    listed = host.ready("bob", "list")["environments"]
    assert name in [environment["name"] for environment in listed]
    assert host.box.ok("envmgr", "run", name, "--", "lib-says", user="bob") == "lib"
    job = library(host, "bob", name)
    assert line(job) == name
    (user,) = (one for one in host.ready("alice", "show", name)["used_by"] if "daemon" not in one["command"])
    assert user["uid"] == int(host.box.ok("id", "-u", "bob"))
    assert "envmgr.ensure" in user["command"]
    assert host.envmgr("alice", "remove", name).error["code"] in ("policy", "permission")
    refused = host.envmgr("carol", "remove", name).error
    assert refused["code"] == "in_use"
    assert name in str(refused)
    assert ended(job, "").code == 0
    assert host.ready("carol", "remove", name)["is_deleted"]
    assert host.ready("bob", "show", name)["state"] == "absent"


def test_root_goes_through_the_daemon(host: ServiceHost) -> None:
    """Root makes environments as everybody does: the store stays its owner's, to the last file."""
    name = host.ready("root", "create", host.spec("lib"))["name"]
    assert host.box.ok("stat", "-c", "%U", f"{STORE}/envs/{name}/conda-meta") == "envmgr"
    assert host.ready("root", "remove", name)["is_deleted"]


def test_outsiders(host: ServiceHost) -> None:
    """Who is not in the group has no way in, and reads why."""
    error = host.envmgr("mallory", "create", host.spec("slow-5")).error
    assert error["code"] in ("permission", "daemon")
    assert "envmgr.sock" in error["message"]


def test_first_client_starts_it(host: ServiceHost) -> None:
    """While only the socket is there, the first request starts the daemon and is answered."""
    host.box.ok("systemctl", "stop", SERVICE)
    assert host.box.property(SERVICE, "ActiveState") == "inactive"
    host.gate("open")
    assert host.ready("alice", "create", host.spec("slow-5"))["built"]
    assert host.box.property(SERVICE, "ActiveState") == "active"


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_dies_in_the_middle_of_a_build(host: ServiceHost, number: signal.Signals) -> None:
    """A daemon that hangs or is killed is started anew: its client gets what it asked for, no builder stays."""
    is_hang = number == signal.SIGSTOP
    if is_hang:
        host.drop_in("watchdog", "WatchdogSec=3", "TimeoutAbortSec=1")
        host.box.ok("systemctl", "restart", SERVICE)
    with slow_build(host, 2 if is_hang else 3) as (spec, client), host.box.journal(SERVICE) as journal:
        daemon, *builders = host.processes()
        assert builders
        host.box.ok("kill", f"-{number.name}", str(daemon))
        if is_hang:
            journal.wait_for("Watchdog timeout")
        journal.wait_for("Scheduled restart job")
        journal.wait_for("Started envmgr.service")
        host.gate("open")
        answer = ended(client)
        assert answer.code == 0, answer
    assert host.main_pid != daemon
    assert set(host.processes()).isdisjoint([daemon, *builders])
    made = host.ready("bob", "create", spec)
    assert (made["name"], made["built"]) == (answer.record["name"], False)
    assert host.ready("bob", "verify", made["name"])["is_whole"]
    published = {link.split("/")[2] for link in host.box.sh(f"readlink {STORE}/envs/env-*").splitlines()}
    assert set(host.box.ok("ls", f"{STORE}/builds").split()) == published
    if is_hang:
        host.drop_in("watchdog")
        host.box.ok("systemctl", "restart", SERVICE)


def test_stop_drains(host: ServiceHost) -> None:
    """A stop lets the running build end, and its client have the environment."""
    with slow_build(host, 4) as (_, client), host.box.journal(SERVICE) as journal:
        stop = host.box.start("systemctl", "stop", SERVICE)
        journal.wait_for("Stopping envmgr.service")
        assert host.box.property(SERVICE, "ActiveState") == "deactivating"
        host.gate("open")
        answer = ended(client)
        assert answer.code == 0, answer
        assert ended(stop).code == 0
        journal.wait_for("Stopped envmgr.service")
    assert host.box.property(SERVICE, "Result") == "success"
    assert host.box.run("test", "-e", f"{STORE}/envs/{answer.record['name']}/conda-meta")[0] == 0
    host.box.ok("systemctl", "start", SERVICE)


def test_reload_rereads_settings(host: ServiceHost) -> None:
    """A reload brings new settings into force in the same process."""
    pid = host.main_pid
    spec = host.spec("app", "lib")
    host.set(allowed_channels=["https://example.org/none"])
    with host.box.journal(SERVICE) as journal:
        host.box.ok("systemctl", "reload", SERVICE)
        journal.wait_for("Reloaded envmgr.service")
    try:
        assert host.envmgr("alice", "create", spec).error["code"] == "policy"
    finally:
        host.set(allowed_channels=[host.url])
        host.box.ok("systemctl", "reload", SERVICE)
    host.ready("alice", "create", spec)
    assert host.main_pid == pid


def test_credentials(host: ServiceHost) -> None:
    """A login that the unit loads opens a private channel; it stands in no setting, no lockfile and no log."""
    host.box.path("/etc/envmgr/netrc").write_text("machine 127.0.0.1 login user password word\n")
    host.box.ok("chmod", "600", "/etc/envmgr/netrc")
    private = host.spec("lib", below="/private")
    host.drop_in("credentials", "LoadCredential=netrc:/etc/envmgr/netrc")
    assert host.envmgr("alice", "create", private).error["code"] == "channel"
    host.set(netrc_file="credential:netrc")
    host.box.ok("systemctl", "restart", SERVICE)
    try:
        name = host.ready("alice", "create", private, "--retry")["name"]
    finally:
        del host.settings["netrc_file"]
        host.set()
        host.box.ok("systemctl", "restart", SERVICE)
    assert "user:word" not in host.said()
    assert host.box.run("grep", "-rlE", "user:word|password", f"{STORE}/envs/{name}/../..", f"{STORE}/names")[1] == ""


def test_conda_home(host: ServiceHost) -> None:
    """Of one home, installed by root, all users create, list and activate under their own names, and each drops his."""
    host.ready("root", "condahome", "install", HOME)
    conda = f"{HOME}/bin/conda"
    spec = host.spec("app", "lib>0")  # of no other test here
    for user, how in (("alice", "was built"), ("bob", "is there already")):
        said = host.box.ok(conda, "env", "create", "-n", f"mlflow-{user}-77", "--file", spec, user=user)
        assert how in said.splitlines()[-1]
    listed = json.loads(host.box.ok(conda, "env", "list", "--json", user="bob"))["envs"]
    computed = {path.rpartition("/")[2] for path in listed if "/mlflow-" in path}
    assert computed == {"mlflow-bob-77"}, "what another user had set under a computed name is nobody else's"
    activate = f"source {HOME}/bin/activate mlflow-alice-77 && lib-says"
    assert host.box.ok("bash", "-c", activate, user="bob") == "lib"
    code, _, said = host.box.run(conda, "env", "create", "-n", "mlflow-alice-77", "-f", host.spec("lib"), user="bob")
    assert (code, "made from another spec" in said) == (1, True)
    code, _, said = host.box.run(conda, "env", "remove", "-y", "-n", "mlflow-alice-77", user="bob")
    assert (code, "administrator" in said) == (1, True)
    assert "is gone" in host.box.ok(conda, "env", "remove", "-y", "-n", "mlflow-bob-77", user="bob")
    assert host.box.ok("bash", "-c", activate, user="bob") == "lib"
    # The home is no user's to change, and mallory has no way in, but reads what is ready.
    assert host.box.sh(f"find {HOME} -not -user root -o -perm /o=w -not -type l") == ""
    assert host.box.run(conda, "env", "create", "-n", "m", "-f", spec, user="mallory")[0] == 1
    assert host.box.ok("bash", "-c", activate, user="mallory") == "lib"


def test_upgrade_in_place(host: ServiceHost) -> None:
    """An upgrade changes the daemon's version and process, and nothing for environments and the jobs in them."""
    name = host.ready("alice", "create", host.spec("app"))["name"]
    builds = host.box.ok("ls", f"{STORE}/builds")
    job = host.start("bob", "run", name, "--", "cat", stdin=subprocess.PIPE)
    assert job.stdin is not None
    job.stdin.write("before\n")
    job.stdin.flush()
    assert line(job) == "before"
    host.ready("root", "condahome", "install", HOME)
    pid = host.main_pid
    # By the installed one itself: what it was made from need not stay.
    upgraded = host.install(program="/usr/local/bin/envmgr")
    assert upgraded["version"] != upgraded["previous_version"]
    assert upgraded["is_running"]
    assert host.main_pid != pid
    program = host.box.ok("readlink", f"/proc/{host.main_pid}/exe")
    assert program.startswith(f"/opt/envmgr/versions/{upgraded['version']}/")
    kept = host.box.ok("ls", "/opt/envmgr/versions").split()
    assert sorted(kept) == sorted([upgraded["version"], upgraded["previous_version"]])
    assert host.box.ok("ls", f"{STORE}/builds") == builds
    assert "cat" in [user["command"] for user in host.ready("alice", "show", name)["used_by"]]
    assert host.envmgr("carol", "remove", name).error["code"] == "in_use"
    assert ended(job, "after\n").out == "after\n"
    assert host.ready("alice", "create", host.spec("app"))["built"] is False
    # A conda home of the version before is one of this version now.
    assert "/opt/envmgr/current/" in host.box.path(f"{HOME}/bin/conda").read_text()
    assert name in host.box.ok(f"{HOME}/bin/conda", "env", "list", user="alice")


def test_runtime(host: ServiceHost) -> None:
    """What was installed is root's, readable by all, byte-code compiled, and refers to nothing below a home."""
    current = host.box.ok("readlink", "-f", "/opt/envmgr/current")
    assert host.box.sh(f"find {current} -not -user root -o -not -type l -not -perm -o=r | head -3") == ""
    package = f"{current}/lib/python*/site-packages/envmgr"
    assert host.box.sh(f"find {package} -name '*.py' | wc -l") == host.box.sh(f"find {package} -name '*.pyc' | wc -l")
    python = (f"{current}/bin/python", "-I", "-c", "import sys; print(sys.path, sys.base_prefix)")
    assert not re.search(r"/root|/home|/tmp", host.box.ok(*python, user="alice"))
    launched = host.box.run("envmgr-python", "--envmgr-env=nothing", "-c", "pass", user="alice")
    assert launched[0] == EnvironmentNotFound.exit_code, launched
