"""The list of commands, and how Typer is told to stay quick.

Newer versions of Typer validate every value with a library that takes 0.06 s to import. All values here are texts and
flags, which need no conversion, so a text is handed on as it is; everything else still goes Typer's own way. Help and
usage errors are plain text: Rich would cost as much again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from envmgr.cli.call import Globals
from envmgr.cli.commands import cluster, cluster_intent, cluster_looking, inspect, maintain, make, run, serve, service
from envmgr.cli.commands.status import status
from envmgr.version import __version__

# The escape keeps the lines of the table apart.
_EPILOG = """\
Exit codes:

\b
 0  done                              8  timed out waiting
 1  unexpected, or a build failed     9  daemon or coordinator needed
 2  usage                            10  no space
 3  invalid spec                     11  permission or policy
 4  unsatisfiable                    12  corrupt
 5  channel or network               13  incompatible host
 6  not found                        14  lockfile mismatch
 7  in use, or alias taken      130/143  interrupted, terminated

Data goes to standard output, words and progress to standard error. The store is --root, else ENVMGR_ROOT, else the
service's where it is installed, else your own.
"""


class _TextsAsTheyAre:
    """A command or group whose parameters hand a text on without validating it, and do nothing for a missing value."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # of the class that this is mixed into
        for parameter in parameters:
            if "process_value" not in vars(parameter):
                parameter.process_value = _quick(parameter)
        return parameters


def _quick(parameter: Any) -> Callable[[Any, Any], Any]:
    process = parameter.process_value

    def process_value(context: Any, value: Any) -> Any:
        is_text = isinstance(value, str) or (isinstance(value, (tuple, list)) and bool(value))
        return value if is_text or (value is None and not parameter.required) else process(context, value)

    return process_value


class _Command(_TextsAsTheyAre, TyperCommand):
    pass


class _Group(_TextsAsTheyAre, TyperGroup):
    pass


app = typer.Typer(
    cls=_Group, name="envmgr", help="Keep conda environments on this host.", epilog=_EPILOG, add_completion=False,
    rich_markup_mode=None, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
_alias = typer.Typer(cls=_Group, help="Set, list and drop aliases.", rich_markup_mode=None)
_service = typer.Typer(
    cls=_Group, help="Install, upgrade, remove and look at the service of a host.", rich_markup_mode=None
)
_cluster = typer.Typer(
    cls=_Group, help="Say what every host of the cluster has, and see how they do.", rich_markup_mode=None
)
_cluster_alias = typer.Typer(cls=_Group, help="Set, list and drop aliases of the cluster.", rich_markup_mode=None)

_COMMANDS: tuple[tuple[typer.Typer, str, Callable[..., int | None]], ...] = (
    (app, "name", make.name),
    (app, "create", make.create),
    (app, "run", run.run),
    (app, "shell-hook", run.shell_hook),
    (app, "list", inspect.list_),
    (app, "show", inspect.show),
    (app, "logs", inspect.logs),
    (app, "remove", maintain.remove),
    (app, "lock", make.lock),
    (app, "relock", make.relock),
    (app, "verify", inspect.verify),
    (app, "repair", make.repair),
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
    (_cluster, "create", cluster.create),
    (_cluster, "remove", cluster.remove),
    (_cluster, "status", cluster_looking.status),
    (_cluster, "hosts", cluster_looking.hosts),
    (_cluster, "show", cluster_looking.show),
    (_cluster, "why", cluster_looking.why),
    (_cluster, "retry", cluster.retry),
    (_cluster, "heal", cluster.heal),
    (_cluster, "cordon", cluster.cordon),
    (_cluster, "uncordon", cluster.uncordon),
    (_cluster, "forget", cluster.forget),
    (_cluster, "relock", cluster.relock),
    (_cluster, "settings", cluster_intent.settings),
    (_cluster, "export", cluster_intent.export),
    (_cluster, "import", cluster_intent.import_),
    (_cluster_alias, "set", cluster_intent.set_alias),
    (_cluster_alias, "list", cluster_intent.list_aliases),
    (_cluster_alias, "remove", cluster_intent.remove_alias),
    (_service, "install", service.install),
    (_service, "uninstall", service.uninstall),
    (_service, "status", service.status),
)
for _parent, _name, _function in _COMMANDS:
    _parent.command(_name, cls=_Command)(_function)
app.add_typer(_alias, name="alias")
_cluster.add_typer(_cluster_alias, name="alias")
app.add_typer(_cluster, name="cluster")
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
