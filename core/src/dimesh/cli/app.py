"""The application: global options and all commands."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from dimesh.cli.commands.admin import config, groups, plugins
from dimesh.cli.commands.backup import backup, restore
from dimesh.cli.commands.cdc import cdc
from dimesh.cli.commands.demo import demo
from dimesh.cli.commands.dlq import dlq
from dimesh.cli.commands.doctor import doctor
from dimesh.cli.commands.explain import explain
from dimesh.cli.commands.init import init
from dimesh.cli.commands.lineage import lineage
from dimesh.cli.commands.new import new
from dimesh.cli.commands.publish import publish
from dimesh.cli.commands.registry import registry
from dimesh.cli.commands.run import run
from dimesh.cli.commands.sandbox import sandbox
from dimesh.cli.commands.schema import schema
from dimesh.cli.commands.tail import replay, tail
from dimesh.cli.commands.topics import topics
from dimesh.cli.commands.webhooks import webhooks
from dimesh.cli.context import State
from dimesh.cli.exit_codes import ExitCode
from dimesh.cli.extensions import ExtensibleGroup
from dimesh.cli.logs import log_of_short_command
from dimesh.cli.output import Output


class Form(StrEnum):
    """The format of results."""

    human = "human"
    json = "json"


class Level(StrEnum):
    """The level from which the log shows records."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


app = typer.Typer(
    cls=ExtensibleGroup,
    name="dimesh",
    help="Data/Integration MESH: publish, validate, capture and trace business events.",
    epilog="Exit codes: " + "; ".join(f"{int(code)} {code.meaning}" for code in ExitCode) + ".",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback()
def options(
    context: typer.Context,
    config_file: Annotated[
        str | None,
        typer.Option("--config", help="The settings file; by default dimesh.toml in the working folder."),
    ] = None,
    bus_path: Annotated[
        str | None,
        typer.Option(
            "--bus-path", help="Use the sqlite bus in this file instead of the bus of the settings."
        ),
    ] = None,
    output: Annotated[
        Form, typer.Option(help="The format of results: human for people, json for programs.")
    ] = Form.human,
    no_color: Annotated[
        bool, typer.Option("--no-color", help="Print without colour, as with NO_COLOR set.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")] = False,
    log_level: Annotated[
        Level | None,
        typer.Option(
            help="Log from this level on; by default info for commands that run until they are stopped."
        ),
    ] = None,
    log_format: Annotated[
        Form | None, typer.Option(help="The format of the log; by default that of --output.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks, and log from debug on.")] = False,
) -> None:
    """Data/Integration MESH: publish, validate, capture and trace business events."""
    context.obj = State(
        config=config_file,
        bus_path=bus_path,
        debug=debug,
        log_level=log_level.value if log_level is not None else None,
        log_format=log_format.value if log_format is not None else None,
        output=Output(as_json=output is Form.json, color=not no_color, quiet=quiet),
    )
    log_of_short_command(context.obj)


app.command()(demo)
app.command()(init)
app.command()(run)
app.command()(publish)
app.command()(tail)
app.command()(explain)
app.add_typer(topics, name="topics")
app.command()(groups)
app.add_typer(dlq, name="dlq")
app.command()(replay)
app.add_typer(cdc, name="cdc")
app.add_typer(webhooks, name="webhooks")
app.add_typer(registry, name="registry")
app.add_typer(schema, name="schema")
app.add_typer(lineage, name="lineage")
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(sandbox)
app.command()(plugins)
app.add_typer(config, name="config")
app.command()(doctor)
app.command()(backup)
app.command()(restore)
app.add_typer(new, name="new")
