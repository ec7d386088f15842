"""Installing and removing the service on a host that changes under it; the tests go in order, on one host."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from answers import Answer
from service_hosts import SERVICE, STORE, ServiceHost, ended

pytestmark = pytest.mark.slow

OWN = os.path.join(sys.prefix, "bin", "envmgr")
SETTINGS = "/etc/envmgr/settings.toml"


def test_store_of_somebody_else(bare_host: ServiceHost) -> None:
    """A store that another user made where the service's is to be is refused with what to do; nothing was changed."""
    path = bare_host.box.path(STORE)
    bare_host.box.sh(f"{OWN} --root {STORE} doctor --json || true")
    assert (path / "owner").is_file()
    error = bare_host.envmgr("root", "service", "install", program=OWN).error
    assert error["code"] == "permission"
    assert f"mv {STORE}" in error["hint"]
    assert bare_host.box.run("test", "-e", "/opt/envmgr")[0] != 0
    bare_host.box.ok("rm", "-r", STORE)
    path.mkdir()


def test_bad_words(bare_host: ServiceHost) -> None:
    """What cannot stand in a unit is refused before anything is changed."""
    for option, word in (("--prefix", "/opt/a b"), ("--use-group", "a b"), ("--admin-group", "%n")):
        assert bare_host.envmgr("root", "service", "install", option, word, program=OWN).error["code"] == "usage"


def test_nothing_to_uninstall(bare_host: ServiceHost) -> None:
    """Where no service is, uninstall says so and is content."""
    answer = bare_host.envmgr("root", "service", "uninstall", program=OWN)
    assert answer.code == 0
    assert "no service is installed here" in answer.err


def test_install_without_start(bare_host: ServiceHost) -> None:
    """It installs elsewhere, too, for all to read whatever root's umask; says each step; starts nothing unasked."""
    words = f"{OWN} service install --prefix /srv/envmgr --admin-group newadmins --json"
    answer = Answer(*bare_host.box.run("sh", "-c", f"umask 077; {words}"))
    assert answer.code == 0, answer
    assert answer.record == {
        "prefix": "/srv/envmgr", "version": answer.record["version"], "previous_version": None, "is_running": False,
    }  # fmt: skip
    for step in ("newadmins", "/srv/envmgr/versions/", SERVICE, "envmgr.socket", SETTINGS, "/usr/local/bin/envmgr"):
        assert step in answer.err, step
    assert "before its first start users have stores of their own" in answer.err
    assert bare_host.box.property(SERVICE, "ActiveState") == "inactive"
    assert bare_host.box.ok("getent", "group", "newadmins").startswith("newadmins:")
    lines = bare_host.box.path(SETTINGS).read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == ['admin_group = "newadmins"']


def test_install_again(bare_host: ServiceHost) -> None:
    """Again, it upgrades where it is installed: the operator's settings, drop-ins and the socket's group stay."""
    bare_host.box.path(SETTINGS).write_text("max_builds = 3\n")
    bare_host.drop_in("operator", "Environment=OPERATOR=1")
    elsewhere = bare_host.envmgr("root", "service", "install", "--prefix", "/opt/elsewhere", program=OWN)
    assert "/srv/envmgr" in elsewhere.error["message"]
    again = bare_host.install("--use-group", "envusers", "--start")
    assert (again["prefix"], again["is_running"]) == ("/srv/envmgr", True)
    assert again["previous_version"] != again["version"]
    assert bare_host.box.path(SETTINGS).read_text() == "max_builds = 3\n"
    assert "OPERATOR=1" in bare_host.box.property(SERVICE, "Environment")
    assert bare_host.box.ok("stat", "-c", "%a %G", "/run/envmgr/envmgr.sock") == "660 envusers"


def test_uninstall(bare_host: ServiceHost) -> None:
    """Uninstalling keeps the store, and jobs go on; purging it, too, is refused while they do."""
    bare_host.set()
    bare_host.box.ok("systemctl", "reload", SERVICE)
    name = bare_host.ready("alice", "create", bare_host.spec("app"))["name"]
    job = bare_host.start("alice", "run", name, "--", "cat", stdin=subprocess.PIPE)
    assert job.stdin is not None
    assert job.stdout is not None
    job.stdin.write("before\n")
    job.stdin.flush()
    assert job.stdout.readline() == "before\n"
    error = bare_host.envmgr("root", "service", "uninstall", "--purge").error
    assert (error["code"], error["fields"]["users"][0]["command"]) == ("in_use", "cat")
    assert bare_host.box.property(SERVICE, "ActiveState") == "active"
    kept = bare_host.envmgr("root", "service", "uninstall").record["kept"]
    assert STORE in kept
    assert bare_host.box.property(SERVICE, "LoadState") == "not-found"
    for path in ("/srv/envmgr", "/run/envmgr", "/usr/local/bin/envmgr", "/usr/local/bin/envmgr-python"):
        assert bare_host.box.run("test", "-L", path, "-o", "-e", path)[0] != 0, path
    refused = bare_host.envmgr("root", "service", "uninstall", "--purge", program=OWN).error
    assert refused["code"] == "in_use"
    assert ended(job, "after\n").out == "after\n"
    assert bare_host.envmgr("root", "service", "uninstall", "--purge", program=OWN).record["kept"] == []
    for path in (STORE, "/etc/envmgr", f"/etc/systemd/system/{SERVICE}.d"):
        assert bare_host.box.run("test", "-e", path)[0] != 0, path
    assert bare_host.box.run("id", "envmgr")[0] != 0
    assert bare_host.box.ok("systemctl", "--failed", "--no-legend", "--plain") == ""
