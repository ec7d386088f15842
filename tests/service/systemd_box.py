"""A real systemd as process 1 of a container, over this machine's own root file system.

`systemd-nspawn` boots an overlay whose upper layer is a tmpfs, in a mount and a process namespace of their own. All of
it hangs on one pipe: when this process ends, however it ends, the janitor at the pipe's other end kills the container,
and with it the mounts; then it removes the cgroups and the directory. Needs root and Debian's ``systemd-container``.

Nothing polls: the container says itself when it has booted (its notification socket), and the journal is followed
through a pipe.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

LIMIT_S = 30.0
TOOLS = ("systemd-nspawn", "nsenter", "setpriv", "unshare", "journalctl")
_UNWANTED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "console-getty.service", "cron.service", "dpkg-db-backup.timer",
    "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "getty@tty1.service", "logrotate.timer",
    "man-db.timer", "networking.service", "postgresql.service", "ssh.service", "systemd-timesyncd.service",
    "systemd-update-utmp.service",
)  # fmt: skip

# Arguments: directory, cgroup directories. The container's processes are in the cgroups from the start; they can only
# be removed from outside, after its end.
_JANITOR = """\
directory=$1; shift
for cgroup; do mkdir -p "$cgroup"; done
(
    for cgroup; do echo $BASHPID >"$cgroup/cgroup.procs"; done
    exec setpriv --pdeathsig KILL unshare --mount --propagation private --pid --fork --kill-child --mount-proc \\
        bash "$directory/start" </dev/null >"$directory/log" 2>&1
) &
read -r _
kill -KILL $!
wait $! 2>/dev/null
for cgroup; do
    # The last processes end a moment after their namespace's first one.
    while [ -n "$(cat $(find "$cgroup" -name cgroup.procs) 2>/dev/null)" ]; do sleep 0.02; done
    find "$cgroup" -depth -type d -exec rmdir {} ';'
done
rm -rf --one-file-system "$directory"
"""

_START = """\
set -e
mkdir "$D/layers" "$D/root"
mount -t tmpfs -o size=4g,mode=0755 layers "$D/layers"
mkdir "$D/layers/upper" "$D/layers/work"
mount -t overlay -o "lowerdir=/,upperdir=$D/layers/upper,workdir=$D/layers/work" box "$D/root"
R=$D/root
mount -t tmpfs run /run  # what nspawn notes there goes with the namespace
: >"$R/etc/fstab"
echo $ID >"$R/etc/machine-id"
echo box >"$R/etc/hostname"
for unit in $UNWANTED; do ln -sfn /dev/null "$R/etc/systemd/system/$unit"; done
rm -rf "$R"/var/log/journal "$R"/opt/envmgr "$R"/var/lib/envmgr "$R"/etc/envmgr "$R"/usr/local/bin/envmgr*
exec systemd-nspawn --quiet --register=no --keep-unit --directory="$R" --boot --private-network --machine=box \\
    --hostname=box --uuid=$ID --console=pipe --notify-ready=yes $BINDS
"""


def missing() -> str | None:
    """Return what this machine lacks for a box, or ``None``."""
    if os.geteuid() != 0:
        return "root, to boot a container"
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if lacking:
        return f"{', '.join(lacking)} (Debian packages systemd-container, util-linux)"
    unshared = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False)
    return "the right to mount (CAP_SYS_ADMIN)" if unshared.returncode else None


class Box:
    """A booted container; ends with the ``with`` block, or with this process."""

    def __init__(self, binds: Sequence[Path]) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="envmgr-box-"))
        self.cgroups = _cgroups(f"envmgr-box-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        places = sorted({str(path) for path in binds})
        header = {
            "D": str(self.directory),
            "ID": uuid.uuid4().hex,
            "UNWANTED": "'" + " ".join(_UNWANTED) + "'",
            "BINDS": "'" + " ".join(f"--bind-ro={path}" for path in places) + "'",
        }
        lines = "".join(f"{key}={value}\n" for key, value in header.items())
        (self.directory / "start").write_text(lines + _START)
        notified = self.directory / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(notified))
            self._janitor = subprocess.Popen(
                ["bash", "-c", _JANITOR, "janitor", self.directory, *self.cgroups],
                stdin=subprocess.PIPE,
                env={"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(notified), "SYSTEMD_SECCOMP": "1"},
                start_new_session=True,
            )
            try:
                self._wait_until_booted(listener)
                self.leader = _leader(self._janitor.pid)
            except BaseException:
                self.close()
                raise

    def _wait_until_booted(self, listener: socket.socket) -> None:
        listener.settimeout(LIMIT_S)
        while True:
            try:
                message = listener.recv(1 << 16).decode()
            except TimeoutError:
                raise RuntimeError(f"the box does not boot: {(self.directory / 'log').read_text()}") from None
            if "READY=1" in message.splitlines():
                return

    # ------------------------------------------------------------------------------------------------------- commands

    def start(
        self, *command: str | Path, user: str | None = None, environ: Mapping[str, str] | None = None, **options: object
    ) -> subprocess.Popen[str]:
        """Start a program inside, as root or as a user with all his groups."""
        words: list[str | Path] = ["nsenter", "--target", str(self.leader), "--mount", "--uts", "--ipc", "--net"]
        words += ["--pid", "--cgroup", "--", "env", "--chdir=/"]
        # What is killed is nsenter: its child, which is in the box, has to follow.
        words += ["setpriv", "--pdeathsig=KILL"]
        home = "/root"
        if user is not None:
            words += [f"--reuid={user}", f"--regid={user}", "--init-groups", "--inh-caps=-all"]
            home = f"/home/{user}"
        given = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": home, "LANG": "C.UTF-8",
            "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0", **(environ or {}),
        }  # fmt: skip
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen([*words, "--", *command], env=given, text=True, **pipes)  # type: ignore[call-overload,no-any-return]

    def run(self, *command: str | Path, user: str | None = None, **options: object) -> tuple[int, str, str]:
        """Run a program inside to its end; return its exit status, output and errors."""
        process = self.start(*command, user=user, **options)  # type: ignore[arg-type]
        try:
            out, err = process.communicate(timeout=LIMIT_S)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        return process.returncode, out, err

    def ok(self, *command: str | Path, user: str | None = None) -> str:
        """Run a program that must succeed; return its output without white space around it."""
        code, out, err = self.run(*command, user=user)
        assert code == 0, f"{command}: {code}\n{out}{err}"
        return out.strip()

    def sh(self, script: str) -> str:
        return self.ok("sh", "-c", script)

    def path(self, inside: str) -> Path:
        """Return where a path of the box can be seen from here."""
        return Path(f"/proc/{self.leader}/root{inside}")

    def property(self, unit: str, name: str) -> str:
        return self.ok("systemctl", "show", "--value", f"--property={name}", unit)

    # -------------------------------------------------------------------------------------------------------- journal

    @contextlib.contextmanager
    def journal(self, unit: str) -> Iterator[Lines]:
        """Follow what is said by and about a unit from now on."""
        cursor = self.ok("journalctl", "--quiet", "--lines=0", "--show-cursor").partition("-- cursor: ")[2]
        process = self.start("journalctl", "--follow", "--output=cat", f"--unit={unit}", f"--after-cursor={cursor}")
        assert process.stdout is not None
        try:
            yield Lines(process.stdout)
        finally:
            process.kill()
            process.communicate()

    def close(self) -> None:
        """End it; returns when its processes, mounts, cgroups and files are gone."""
        assert self._janitor.stdin is not None
        self._janitor.stdin.close()
        self._janitor.wait(LIMIT_S)

    def __enter__(self) -> Box:  # noqa: PYI034 - `Self` is not in Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Lines:
    """What a program says, line by line as it comes; who waits too long is told what came instead."""

    def __init__(self, stream: IO[str]) -> None:
        self._fd = stream.fileno()
        self._rest = ""
        self.seen: list[str] = []

    def wait_for(self, part: str) -> str:
        """Read lines until one contains `part`, and return it."""
        while True:
            line, end, rest = self._rest.partition("\n")
            if end:
                self._rest = rest
                self.seen.append(line)
                if part in line:
                    return line
            elif select.select([self._fd], [], [], LIMIT_S)[0] and (data := os.read(self._fd, 1 << 16)):
                self._rest += data.decode(errors="replace")
            else:
                raise AssertionError("\n".join((f"nobody said {part!r}:", *self.seen)))


def _cgroups(name: str) -> list[Path]:
    """Return a cgroup for the box in each hierarchy that systemd uses: one with v2 alone, else two."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root / name]
    return [root / part / name for part in ("systemd", "unified") if (root / part).is_dir()]


def _leader(pid: int) -> int:
    """Return the container's first process, as this machine numbers it."""
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        with contextlib.suppress(OSError):
            if Path(f"/proc/{parent}/comm").read_text().strip() == "systemd":
                return parent
            waiting += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    raise RuntimeError("the box has no first process")
