"""The command that prints Spark's settings: spark-conf."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from envmgr import ready
from envmgr.cli import options
from envmgr.cli.call import Call, is_file
from envmgr.errors import UsageError

if TYPE_CHECKING:
    from envmgr.names import EnvName
    from envmgr.runners.spark.configuration import Mode

_LAUNCHER = "envmgr-python"


def spark_conf(
    context: typer.Context,
    x: options.Environment,
    mode: Annotated[
        str, typer.Option(metavar="client|cluster|local", help="Where the driver runs; local: where all runs.")
    ] = "client",
    as_: Annotated[
        str,
        typer.Option(
            "--as", metavar="properties|arguments|shell", help="Lines of a file, words for spark-submit, or for eval."
        ),
    ] = "properties",
    create: Annotated[
        bool, typer.Option("--create", help="Of a file: each host makes what is not there. The file travels along.")
    ] = False,
    driver: Annotated[
        bool, typer.Option("--driver", help="The driver runs in the environment, too (in cluster mode it always does).")
    ] = False,
    python: Annotated[
        str | None,
        typer.Option(metavar="PATH", show_default=False, help="Where the executors' hosts have envmgr-python."),
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Print Spark's settings for an environment.

    spark-submit --properties-file takes the lines, spark-submit $(envmgr spark-conf X --as arguments) the words, and
    eval "$(envmgr spark-conf X --as shell)" is for python driver.py, which reads no other way. Nothing is built here.
    Without --create the environment has to be on every host where executors run (envmgr cluster create).
    """
    from envmgr.runners.spark import configuration  # noqa: PLC0415 - the other commands do without

    call = Call(context, is_json=as_json, is_quiet=quiet)
    name = call.name(x)
    spec = _travelling(call, x) if create else None
    chosen = _mode(mode)
    forms = {"properties", "arguments", "shell"}
    if as_ not in forms:
        raise UsageError(f"--as {as_!r} is none of {', '.join(sorted(forms))}")
    is_here = ready.resolve(call.root, name) is not None
    if not is_here and (driver or spec is None):
        call.say(f"warning: {name} is not in {call.root} (yet)")
    # The service's store is where every host with the service looks anyway; any other has to be named.
    variables = {} if call.root == ready.SERVICE_ROOT else {"ENVMGR_ROOT": call.root}
    found = configuration.of_environment(
        variables if spec else {"ENVMGR_ENV": name, **variables},
        mode=chosen,
        python=python or _launcher(),
        driver_python=_driver(call.root, name) if driver else os.environ.get("PYSPARK_DRIVER_PYTHON") or "python3",
        spec=spec,
    )
    record = {"name": name, "mode": chosen, "settings": dict(found.settings), "variables": found.variables}
    texts = {"properties": found.as_properties, "arguments": found.as_arguments, "shell": found.as_shell}
    call.answer(record, "" if as_json else texts[as_]())


def _mode(text: str) -> Mode:
    from envmgr.runners.spark.configuration import MODES  # noqa: PLC0415

    for mode in MODES:
        if text == mode:
            return mode
    raise UsageError(f"--mode {text!r} is none of {', '.join(MODES)}")


def _travelling(call: Call, word: str) -> Path:
    """Return the file that goes to the executors' hosts; it must be all that there is of the spec."""
    if not is_file(word) or word == "-":
        raise UsageError(f"--create wants a spec's file, not {word!r}")
    if call.document(word).spec.has_includes:
        raise UsageError(
            f"{word} includes other files, which would not travel with it",
            hint="make a lockfile of it, which includes nothing: envmgr lock FILE -o conda-lock.yml",
        )
    return Path(word).absolute()


def _launcher() -> str:
    """Return envmgr-python's path on this host: that of PATH, else the one beside this interpreter."""
    beside = Path(sys.executable).parent / _LAUNCHER
    found = shutil.which(_LAUNCHER) or (str(beside) if os.access(beside, os.X_OK) else None)
    if found is None:
        raise UsageError(f"{_LAUNCHER} is not on PATH", hint="--python PATH says where the executors' hosts have it")
    return os.path.abspath(found)


def _driver(root: str, name: EnvName) -> str:
    """Return the environment's interpreter at its stable path; started by it, the driver holds its own lease."""
    return f"{root}/envs/{name}/bin/python"
