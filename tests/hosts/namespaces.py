"""Simulated hosts on one bridge, each in network, uts, mount, pid and ipc namespaces of its own.

A host has its own machine id, boot id (new with each boot), host name, ``/etc``, ``/run``, ``/var/lib`` and disk
(``/var/lib/envmgr`` is `Host.disk`, which outlives a power-off); the rest of the file system is this machine's.

Nothing has a name in the root namespaces. Every namespace is held by a process that reads a pipe of ours: when this
process ends, however it ends, the kernel ends all that ran in the hosts, and links, bridge and mounts go with them.
What then stays is a temporary directory, which the next `Network` sweeps.

Not simulated: the kernel is one, so clocks cannot differ, and CLOCK_BOOTTIME orders what happens on all hosts. Packets
are dropped but not delayed (this needs a kernel with netem).

Source: namespaces(7), nft(8), unshare(1).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

TOOLS = {"unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux", "ip": "iproute2", "nft": "nftables"}
_STEM = "envmgr-hosts-"
_MOMENT_S = 10.0
_libc = ctypes.CDLL(None, use_errno=True)
_KINDS = ("net", "uts", "mount", "pid", "ipc")

# Of a host, in its namespaces: name, address with length, directory of its own, what its /etc has on top.
_BOOT = """\
hostname "$1"
ip link set lo up
ip address add "$2" dev eth0
ip link set eth0 up
mount -t tmpfs layers "$3/layers"
mkdir "$3/layers/work"
cp -r "$3/etc" "$3/layers/upper"
mount -t overlay -o "lowerdir=/etc,upperdir=$3/layers/upper,workdir=$3/layers/work" etc /etc
mount -t tmpfs run /run
mount -t tmpfs lib /var/lib
mkdir /run/envmgr /var/lib/envmgr
mount --bind "$3/disk" /var/lib/envmgr
mount --bind "$3/boot_id" /proc/sys/kernel/random/boot_id
"""


def missing() -> str | None:
    """Return what this machine lacks for simulated hosts, or ``None``."""
    if os.geteuid() != 0:
        return "root, to make network and mount namespaces"
    lacking = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if lacking:
        return f"Debian packages {', '.join(lacking)}"
    options = [f"--{kind}" for kind in _KINDS]
    made = subprocess.run(["unshare", *options, "--fork", "true"], capture_output=True, check=False)
    if made.returncode:
        return "the right to make namespaces (CAP_SYS_ADMIN)"
    rule = [
        "unshare",
        "--net",
        "nft",
        "add table bridge t; add chain bridge t f { type filter hook forward priority 0; }",
    ]
    if subprocess.run(rule, capture_output=True, check=False).returncode:
        return "a kernel with nftables on bridges"
    return None


class Network(contextlib.AbstractContextManager["Network"]):
    """The bridge, its hosts by name, and what befalls the cables; ends with the ``with`` block or this process."""

    def __init__(self, names: Sequence[str]) -> None:
        _sweep()
        self.directory = Path(tempfile.mkdtemp(prefix=_STEM))
        self._mark = os.open(self.directory, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._mark, fcntl.LOCK_EX)
        self._rules: dict[str, list[str]] = {}
        self._holder = _Holder(["--net"])
        self.hosts: dict[str, Host] = {}
        try:
            self.run(
                "ip link set lo up; ip link add br0 type bridge; ip address add 10.99.0.254/24 dev br0; "
                "ip link set br0 up"
            )
            for name in names:
                self.add(name)
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def add(self, name: str) -> Host:
        """Plug in and boot one more host."""
        host = self.hosts[name] = Host(self, name, len(self.hosts) + 1)
        host.boot()
        return host

    def run(self, script: str) -> str:
        """Run a shell script beside the bridge and return what it said; raises `RuntimeError` when it fails."""
        return _checked(["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "sh", "-euc", script])

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Be on the bridge with this thread, and with the threads that it starts, for the length of a block.

        No fault lies between the bridge and a host, but for a pulled cable.
        """
        own, there = (os.open(f"/proc/{pid}/ns/net", os.O_RDONLY) for pid in ("thread-self", self._holder.pid))
        try:
            _set_namespace(there)
            try:
                yield
            finally:
                _set_namespace(own)
        finally:
            os.close(own)
            os.close(there)

    # ------------------------------------------------------------------------------------------------- what befalls it

    def pull(self, host: Host) -> None:
        """Pull a host's cable."""
        self.run(f"ip link set {host.port} down")

    def plug(self, host: Host) -> None:
        self.run(f"ip link set {host.port} up")

    def drop(self, source: Host, target: Host) -> None:
        """Let every packet from one host to another vanish; those of the other way still arrive."""
        self._rule(f"drop {source.name} {target.name}", f"ip saddr {source.address} ip daddr {target.address} drop")

    def split(self, *groups: Iterable[Host]) -> None:
        """Let the groups hear nothing of each other."""
        parts = [tuple(group) for group in groups]
        for one in parts:
            for other in parts:
                if one is not other:
                    for source in one:
                        for target in other:
                            self.drop(source, target)

    def lose(self, host: Host, percent: int) -> None:
        """Let that part of the packets vanish, of those that a host sends and of those that it should receive."""
        chance = f"numgen random mod 10000 < {min(100 * percent, 9999)} drop"
        self._rule(f"lose {host.name}", f"iifname {host.port} {chance}", f"oifname {host.port} {chance}")

    def heal(self) -> None:
        """Let every packet of every host that is up arrive again."""
        self._rules.clear()
        self._apply()
        self.run("; ".join(f"ip link set {host.port} up" for host in self.hosts.values() if host.is_up) or "true")

    def _rule(self, key: str, *rules: str) -> None:
        self._rules[key] = list(rules)
        self._apply()

    def _apply(self) -> None:
        rules = "".join(f"    {rule}\n" for rules in self._rules.values() for rule in rules)
        self._nft(
            "add table bridge faults\ndelete table bridge faults\n"
            f"table bridge faults {{\n  chain faults {{\n    type filter hook forward priority 0;\n{rules}  }}\n}}\n"
        )

    def _nft(self, document: str) -> None:
        _checked(["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "nft", "-f", "-"], document)

    def close(self) -> None:
        """End every host and all that runs in them, at once."""
        for host in self.hosts.values():
            host.let_go()
        for host in self.hosts.values():
            host.power_off()
        self._holder.end()
        shutil.rmtree(self.directory, ignore_errors=True)
        os.close(self._mark)


class Host:
    """One host; `disk` is what it sees as ``/var/lib/envmgr``, `etc` what its ``/etc`` gets on top when it boots."""

    def __init__(self, network: Network, name: str, number: int) -> None:
        self._network = network
        self.name = name
        self.port = f"port{number}"
        self.address = f"10.99.0.{number}"
        self._number = number
        self.machine_id = uuid.uuid4().hex
        self.directory = network.directory / name
        self.disk = self.directory / "disk"
        self.etc = self.directory / "etc"
        for directory in (self.disk, self.etc / "envmgr", self.directory / "layers"):
            directory.mkdir(parents=True)
        self._holder: _Holder | None = None
        self._starters: set[int] = set()

    @property
    def is_up(self) -> bool:
        return self._holder is not None

    @property
    def pid(self) -> int:
        """The pid, in the root namespace, of the process with the number 1 of this host."""
        if self._holder is None:
            raise RuntimeError(f"{self.name} is off")
        return self._holder.pid

    @property
    def root(self) -> Path:
        """Its file system, as it is seen from outside."""
        return Path(f"/proc/{self.pid}/root")

    def boot(self) -> None:
        """Switch it on; its disk is as it was left."""
        (self.directory / "boot_id").write_text(f"{uuid.uuid4()}\n")
        (self.etc / "machine-id").write_text(f"{self.machine_id}\n")
        (self.etc / "hostname").write_text(f"{self.name}\n")
        others = "".join(f"{host.address} {host.name}\n" for host in self._network.hosts.values())
        (self.etc / "hosts").write_text(f"127.0.0.1 localhost\n{others}")
        self._holder = _Holder([*(f"--{kind}" for kind in _KINDS), "--mount-proc", "--propagation", "private"])
        # The same hardware address at each boot: what others remember of it stays right. The kernel takes its time over
        # the network of a host that has just gone down, and the old cable with it.
        self._network.run(
            f"ip link delete {self.port} 2>/dev/null || true; "
            f"ip link add {self.port} type veth peer name eth0 address 02:99:00:00:00:{self._number:02x} "
            f"netns {self.pid}; ip link set {self.port} master br0 up"
        )
        self.run("sh", "-euc", _BOOT, "boot", self.name, f"{self.address}/24", str(self.directory))

    def let_go(self) -> None:
        """Have it go down; `power_off` waits until it is."""
        if self._holder is not None:
            self._holder.let_go()

    def power_off(self) -> None:
        """End everything in it at once, as if the power had gone."""
        holder, self._holder = self._holder, None
        if holder is not None:
            holder.end()
            for pid in self._starters:
                _send(pid, signal.SIGCONT)
            self._starters.clear()

    def command(self, *command: str | Path) -> list[str]:
        """Return what starts `command` in this host, from outside; it dies with who started it."""
        enter = ["nsenter", "--target", str(self.pid), *(f"--{kind}" for kind in _KINDS)]
        return [*enter, "setpriv", "--pdeathsig=KILL", *map(str, command)]

    def run(self, *command: str | Path, given: str | None = None) -> str:
        """Run a program to its end and return what it said; raises `RuntimeError` when it fails."""
        return _checked(self.command(*command), given)

    def start(self, *command: str | Path, **options: Any) -> subprocess.Popen[Any]:
        """Start a program."""
        return subprocess.Popen(self.command(*command), **options)

    def processes(self) -> Mapping[int, str]:
        """Return what runs in it, but for process 1: pid in the root namespace → command line."""
        inside = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != self.pid:
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{entry}/ns/pid") == inside and _state(int(entry)) not in "ZX":
                        words = Path(f"/proc/{entry}/cmdline").read_bytes()
                        found[int(entry)] = words.replace(b"\0", b" ").decode().strip()
        return found

    def freeze(self) -> None:
        """Stop everything in it, as a paused virtual machine; returns when all of it stands still."""
        while moving := [pid for pid in self.processes() if _state(pid) not in "TtZX"]:
            # nsenter, outside, stops itself when its child stops, and then would not see the child's end.
            self._starters.update(_parent(pid) for pid in moving)
            for pid in moving:
                _send(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in (*self.processes(), *self._starters):
            _send(pid, signal.SIGCONT)
        self._starters.clear()


class _Holder:
    """Namespaces that last until `end`, or until this process ends."""

    def __init__(self, options: Sequence[str]) -> None:
        # Who ignores SIGCHLD need not wait for orphans: as process 1 of a host it is the parent of many.
        init = ["env", "--ignore-signal=CHLD", "cat"]
        forked = ["--fork", "--kill-child=SIGKILL"] if "--pid" in options else []
        self._process = subprocess.Popen(
            ["unshare", *options, *forked, *init], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        if self._process.stdout.read(1) != b"\n":  # else `cat` runs: all is there
            self.end()
            raise RuntimeError("unshare failed")
        self.pid = self._process.pid
        if forked:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
            self.pid = int(children.read_text(encoding="ascii").split()[0])

    def let_go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def end(self) -> None:
        self.let_go()
        assert self._process.stdout is not None
        self._process.stdout.close()
        try:
            self._process.wait(_MOMENT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _set_namespace(fd: int) -> None:
    if _libc.setns(fd, 0) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _checked(command: Sequence[str], given: str | None = None) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:300]}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _state(pid: int) -> str:
    """Return the letter of proc(5); ``X``: it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def _parent(pid: int) -> int:
    """Return the pid of a process's parent; its own when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return pid


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _sweep() -> None:
    """Delete the directories of those that were killed: nobody holds their lock any more."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_STEM}*"):
        with contextlib.suppress(OSError):
            fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(fd)
