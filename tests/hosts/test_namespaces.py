"""The simulated hosts are as apart as they should be, and nothing stays of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.processes import LIMIT_S
from places import CHECKOUT

from hosts.namespaces import Host, Network, missing

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    lacking = missing()
    if lacking is not None:
        pytest.skip(f"needs {lacking}")
    with Network(["one", "two", "three"]) as made:
        yield made


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def hears(host: Host, other: Host) -> bool:
    """Tell whether a host gets an answer of another."""
    code = "import socket, sys; s = socket.create_connection((sys.argv[1], 9), 0.3)\n"  # refused: it was heard
    words = host.start(
        sys.executable, "-S", "-c", code, other.address, stderr=subprocess.PIPE, text=True
    ).communicate()[1]
    assert words
    return "ConnectionRefusedError" in words


def test_a_host_is_a_host_of_its_own(network: Network) -> None:
    """Name, machine id, boot id and disk differ, are seen where programs look, and a boot changes the boot id alone."""
    seen = {}
    look = "hostname; cat /etc/machine-id /etc/hostname; ls -d /run/e*; cat /proc/sys/kernel/random/boot_id"
    for name, host in network.hosts.items():
        (host.disk / "mine").write_text(name)
        assert host.run("cat", "/var/lib/envmgr/mine") == name
        hostname, machine_id, written, run, boot_id = host.run("sh", "-c", look).split()
        assert (hostname, machine_id, written, run) == (name, host.machine_id, name, "/run/envmgr")
        seen[machine_id] = boot_id
    assert len(seen) == len(set(seen.values())) == 3
    host = network["one"]
    host.power_off()
    host.boot()
    assert host.run("cat", "/var/lib/envmgr/mine") == "one"
    assert host.run("cat", "/proc/sys/kernel/random/boot_id").strip() not in seen.values()
    assert hears(network["two"], host)


def test_what_befalls_cables(network: Network) -> None:
    """A pulled cable, a lost way, a loss of everything and a split are what they say, and `heal` ends them."""
    one, two, three = network.hosts.values()
    assert hears(one, two)
    network.pull(two)
    assert not hears(one, two)
    network.plug(two)
    until(lambda: hears(one, two))
    network.drop(one, two)
    assert not hears(one, two)
    assert hears(one, three)
    network.drop(two, one)
    network.heal()
    assert hears(one, two)
    network.lose(one, 100)
    assert not hears(one, two)
    assert hears(two, three)
    network.heal()
    network.split([one], [two, three])
    assert not hears(one, three)
    assert hears(two, three)
    network.pull(three)
    network.heal()
    until(lambda: hears(one, three))


def test_a_frozen_host_stands_still(network: Network) -> None:
    """Nothing in a frozen host runs until it is thawed; a process that it starts meanwhile is none."""
    host = network["three"]
    with host.start("sh", "-c", "while read -r line; do echo $line; done", **_pipes()) as process:
        _say(process, "before")
        assert process.stdout.readline() == b"before\n"
        host.freeze()
        _say(process, "after")
        assert [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in host.processes()] == [
            "T"
        ]
        host.thaw()
        assert process.stdout.readline() == b"after\n"
        host.power_off()
        assert process.wait(LIMIT_S) == -signal.SIGKILL or process.returncode == 128 + signal.SIGKILL
    host.boot()
    assert not host.processes()


def _pipes() -> dict[str, int]:
    return {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}


def _say(process: subprocess.Popen[bytes], word: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{word}\n".encode())
    process.stdin.flush()


def test_orphans_are_reaped(network: Network) -> None:
    """An orphan that ends leaves no entry behind, as under any init."""
    host = network["one"]
    pid = int(host.run("sh", "-c", "sh -c 'read -r line </dev/zero' >/dev/null 2>&1 & echo $!"))
    inside = f"kill -KILL {pid}; while [ -e /proc/{pid} ]; do :; done"
    host.run("sh", "-c", inside)


def test_nothing_stays_of_a_killed_process(network: Network) -> None:
    """When the process that made hosts is killed, all that ran in them ends, and the next one deletes its directory."""
    program = (
        "import sys\nfrom hosts.namespaces import Network\n"
        "network = Network(['one', 'two'])\n"
        "process = network['one'].start('sh', '-c', 'echo up; exec sleep 1000')\n"
        "print(network.directory, network['one'].pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(CHECKOUT / "tests")}
    with subprocess.Popen([sys.executable, "-c", program], env=environ, **_pipes()) as process:
        lines = sorted([process.stdout.readline(), process.stdout.readline()])
        directory, pid = next(line for line in lines if line != b"up\n").split()
        assert Path(os.fsdecode(directory)).parent == Path(tempfile.gettempdir())
        process.kill()
    # Their parent is gone, so whoever adopts them reaps them when it likes.
    until(lambda: not Path(f"/proc/{int(pid)}/ns/net").exists() or not _namespaces(int(pid)))
    assert os.path.isdir(directory)
    with Network([]):
        assert not os.path.exists(directory)
    assert network.directory.is_dir()


def _namespaces(pid: int) -> bool:
    try:
        os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return False
    return True
