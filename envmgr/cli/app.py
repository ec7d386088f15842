"""The list of commands; those of ``envmgr cluster`` are in `envmgr.cli.cluster_app`, and are loaded when asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any

import typer
import typer.main

from envmgr.cli.call import Globals
from envmgr.cli.commands import bundle, condahome, inspect, lint, maintain, make, pack, run, serve, service, spark
from envmgr.cli.commands.status import status
from envmgr.cli.groups import Command, group, later
from envmgr.version import __version__

# The escape keeps the lines of the table apart.
_EPILOG = """\
Exit codes:

\b
 0  done                              9  busy, daemon or coordinator away
 1  unexpected, or a build failed    10  no space
 2  usage                            11  permission or policy
 3  invalid spec                     12  corrupt
 4  unsatisfiable                    13  incompatible host
 5  channel or network               14  lockfile mismatch
 6  not found                        15  unsuitable for a system
 7  in use, or alias taken           16  over a limit
 8  timed out waiting           130/143  interrupted, terminated

Data goes to standard output, words and progress to standard error. The store is --root, else ENVMGR_ROOT, else the
service's where it is installed, else your own.
"""


app = group(
    "Keep conda environments on this host.", name="envmgr", epilog=_EPILOG, add_completion=False,
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
_alias = group("Set, list and drop aliases.")
_bundle = group("Carry environments to a site without a network, as one file.")
_condahome = group("Stand in for a conda installation where programs look for one.")
_service = group("Install, upgrade, remove and look at the service of a host.")


def _cluster() -> typer.Typer:
    from envmgr.cli.cluster_app import whole  # noqa: PLC0415 - 0.02 s that the other commands do not owe

    return whole


_COMMANDS: tuple[tuple[typer.Typer, str, Callable[..., int | None]], ...] = (
    (app, "name", make.name),
    (app, "create", make.create),
    (app, "run", run.run),
    (app, "shell-hook", run.shell_hook),
    (app, "spark-conf", spark.spark_conf),
    (app, "list", inspect.list_),
    (app, "show", inspect.show),
    (app, "logs", inspect.logs),
    (app, "remove", maintain.remove),
    (app, "lock", make.lock),
    (app, "relock", make.relock),
    (app, "verify", inspect.verify),
    (app, "repair", make.repair),
    (app, "pack", pack.pack),
    (app, "lint", lint.lint),
    (app, "pin", maintain.pin),
    (app, "unpin", maintain.unpin),
    (app, "gc", maintain.gc),
    (app, "doctor", inspect.doctor),
    (app, "status", status),
    (app, "settings", inspect.settings),
    (app, "daemon", serve.daemon),
    (_alias, "set", maintain.set_alias),
    (_alias, "list", maintain.list_aliases),
    (_alias, "remove", maintain.remove_alias),
    (_bundle, "export", bundle.export),
    (_bundle, "import", bundle.import_),
    (_condahome, "install", condahome.install),
    (_service, "install", service.install),
    (_service, "uninstall", service.uninstall),
    (_service, "status", service.status),
)
for _parent, _name, _function in _COMMANDS:
    _parent.command(_name, cls=Command)(_function)
app.add_typer(_alias, name="alias")
app.add_typer(later("Say what every host of the cluster has, and see how they do.", _cluster), name="cluster")
app.add_typer(_bundle, name="bundle")
app.add_typer(_condahome, name="condahome")
app.add_typer(_service, name="service")


@app.callback(invoke_without_command=True)
def _globals(
    context: typer.Context,
    root: Annotated[str | None, typer.Option(metavar="DIR", show_default=False, help="The store to work on.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and the log of builds.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    given: Globals = context.obj
    given.root = root
    given.is_debug = debug
    if version:
        typer.echo(f"envmgr {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


@functools.cache
def command() -> Any:
    """Return the tree of commands; its type is click's, of which Typer may carry a copy of its own."""
    return typer.main.get_command(app)
