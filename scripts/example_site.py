"""Where the examples run: a site with Ray, Spark, MLflow and pyjava, which is itself an environment of envmgr's.

``examples/site/environment.yml`` says what the site has; envmgr's own requirements are added, since the systems load
envmgr's plugins into their own interpreters, as if somebody had installed envmgr beside them. An example is a folder::

    examples/NAME/README.md      what it shows, in a few lines
    examples/NAME/run            a command; it uses envmgr, envmgr-python, python and the systems' programs of PATH, the
                                 store ENVMGR_ROOT, and the directory WORK for what it writes; exit status 0: it worked
    examples/NAME/expected.txt   lines that its standard output must have, in this order; others may stand between them.
                                 … stands for what differs between machines

Used by ``scripts/examples`` and by the tests, which are these examples.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import yaml

import envmgr

CHECKOUT = Path(__file__).resolve().parent.parent
EXAMPLES = CHECKOUT / "examples"
_SPEC = EXAMPLES / "site" / "environment.yml"
_PROGRAMS = ("envmgr", "envmgr-python")
_PATIENCE_S = 30


class Site:
    """The site's environment, leased by this process, and the variables of a user who works there."""

    def __init__(self, directory: Path, environment: envmgr.Environment) -> None:
        self._directory = directory
        self.environment = environment

    @property
    def python(self) -> Path:
        """The site's interpreter, which can import ray, pyspark, mlflow, pyjava and envmgr."""
        python = self.environment.python
        if python is None:
            raise SystemExit(f"{self.environment.name} has no interpreter")
        return python

    def variables(self, *, root: Path, home: Path) -> dict[str, str]:
        """Return the variables of somebody at the site, whose home is `home` and whose store is at `root`.

        Nothing of this process's own environment manager or Python is in them. Ray's servers ask for no token, tell
        nobody that they run, end at once when told to, and write below ``$HOME/ray`` (``--temp-dir``, which must be
        short: sockets lie there).
        """
        foreign = ("ENVMGR_", "CONDA_", "MAMBA_", "PYTHON", "RAY_", "SPARK_", "PYSPARK_", "MLFLOW_", "VIRTUAL_ENV")
        base = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        found = self.environment.environ(base)
        found |= {
            "HOME": str(home),
            "ENVMGR_ROOT": str(root),
            "PYTHONPATH": str(self._directory / "packages"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "RAY_AUTH_MODE": "disabled",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "SPARK_LOCAL_IP": "127.0.0.1",
        }
        found["PATH"] = f"{self._directory / 'bin'}:{found['PATH']}"
        return found


def prepare(directory: Path, settings: str) -> Site:
    """Make the site below `directory`, or find it there; `settings` are the text of its store's settings.toml.

    Blocks for a minute or two the first time. May be called by many processes at once.
    """
    root = directory / "store"
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "settings.toml").exists():
        (root / "settings.toml").write_text(settings, encoding="utf-8")
    document = yaml.safe_load(_SPEC.read_text(encoding="utf-8"))
    for dependency in document["dependencies"]:
        if isinstance(dependency, dict):
            dependency["pip"] += _own_requirements()
    environment = envmgr.ensure(document, root=root, alias="site", on_progress=_tell)
    _link(directory / "packages" / "envmgr", Path(envmgr.__file__).parent)
    for program in _PROGRAMS:
        _link(directory / "bin" / program, Path(sys.executable).parent / program)
    return Site(directory, environment)


def lacking(expected: str, output: str) -> str | None:
    """Return the first line of `expected` that `output` does not have in its turn, or ``None``."""
    lines = iter(output.splitlines())
    for wanted in filter(None, expected.splitlines()):
        pattern = re.compile(".*".join(re.escape(part) for part in wanted.rstrip().split("…")))
        if not any(pattern.fullmatch(line.rstrip()) for line in lines):
            return wanted
    return None


def run(name: str, variables: Mapping[str, str], work: Path, *, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run an example to its end, in `work`; its output is kept, and what it says on standard error, too.

    Where it takes too long it is told to end, with all that it has started in its session, and a while later killed.
    """
    work.mkdir(parents=True, exist_ok=True)
    command = [os.fspath(EXAMPLES / name / "run")]
    with subprocess.Popen(
        command,
        env={**variables, "WORK": str(work)},
        cwd=work,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.communicate(timeout=_PATIENCE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def check(name: str, site: Site, directory: Path, settings: str) -> str | None:
    """Run an example as somebody new at the site; print what it prints, and return why it failed, or ``None``.

    Its store lies below `directory`, is empty and deleted afterwards: examples tell how many environments there are.
    """
    with (
        tempfile.TemporaryDirectory(prefix="envmgr-", ignore_cleanup_errors=True) as home,
        tempfile.TemporaryDirectory(prefix="jobs-", dir=directory, ignore_cleanup_errors=True) as root,
    ):
        (Path(root) / "settings.toml").write_text(settings, encoding="utf-8")
        done = run(name, site.variables(root=Path(root), home=Path(home)), Path(home) / "work", timeout_s=600)
    print(done.stdout, end="")
    missing = lacking((EXAMPLES / name / "expected.txt").read_text(encoding="utf-8"), done.stdout)
    if done.returncode == 0 and missing is None:
        return None
    print(done.stderr, end="")
    return f"exit status {done.returncode}" if done.returncode else f"no line like {missing!r}"


def names() -> list[str]:
    """Return the examples that can be run."""
    return sorted(path.parent.name for path in EXAMPLES.glob("*/run"))


def _own_requirements() -> list[str]:
    found = importlib.metadata.requires("envmgr") or []
    return [requirement for requirement in found if "extra ==" not in requirement]


def _link(path: Path, target: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    if path.is_symlink() and os.readlink(path) == str(target):
        return
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.symlink_to(target)
    new.replace(path)


def _tell(event: object) -> None:
    if getattr(event, "kind", None) == "begin":
        print(f"site: {event}", file=sys.stderr)


def main(arguments: list[str]) -> int:
    """Run examples one after the other; exit status 1 when one of them failed."""
    parser = argparse.ArgumentParser(prog="examples", description="Run the examples, and compare what they print.")
    parser.add_argument("directory", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"only these: {', '.join(names())}")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(names())):
        parser.error(f"no such example: {', '.join(unknown)} (there are {', '.join(names())})")
    file = options.directory / "store" / "settings.toml"  # absent where the defaults will do
    settings = file.read_text(encoding="utf-8") if file.exists() else ""
    site = prepare(options.directory, settings)
    failed = 0
    for name in options.names or names():
        began = time.monotonic()
        why = check(name, site, options.directory, settings)
        failed += why is not None
        verdict = f"as expected ({time.monotonic() - began:.0f} s)" if why is None else f"FAILED: {why}"
        print(f"== {name}: {verdict}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
