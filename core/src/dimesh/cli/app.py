"""The application: global options and all commands."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from dimesh.cli.commands.admin import config, groups, plugins, topics
from dimesh.cli.commands.cdc import cdc
from dimesh.cli.commands.demo import demo
from dimesh.cli.commands.dlq import dlq
from dimesh.cli.commands.new import new
from dimesh.cli.commands.publish import publish
from dimesh.cli.commands.running import doctor, run
from dimesh.cli.commands.sandbox import sandbox
from dimesh.cli.commands.tail import replay, tail
from dimesh.cli.commands.webhooks import webhooks
from dimesh.cli.context import State
from dimesh.cli.exit_codes import ExitCode
from dimesh.cli.output import Output


class Form(StrEnum):
    """How results are printed."""

    human = "human"
    json = "json"


app = typer.Typer(
    name="dimesh",
    help="Data/Integration MESH: move, check, follow and trace business events.",
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
        typer.Option("--config", help="Settings file; by default dimesh.toml in the working folder."),
    ] = None,
    bus_path: Annotated[
        str | None,
        typer.Option("--bus-path", help="Use the sqlite bus in this file, whatever the settings say."),
    ] = None,
    output: Annotated[Form, typer.Option(help="human for people, json for programs.")] = Form.human,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colour (NO_COLOR does it, too).")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only results and errors.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and more of the log.")] = False,
) -> None:
    """Data/Integration MESH: move, check, follow and trace business events."""
    context.obj = State(
        config=config_file,
        bus_path=bus_path,
        debug=debug,
        output=Output(as_json=output is Form.json, color=not no_color, quiet=quiet),
    )
    if not debug:
        import logging

        logging.getLogger("dimesh").setLevel(logging.ERROR)


app.command()(demo)
app.command()(run)
app.command()(publish)
app.command()(tail)
app.command()(topics)
app.command()(groups)
app.add_typer(dlq, name="dlq")
app.command()(replay)
app.add_typer(cdc, name="cdc")
app.add_typer(webhooks, name="webhooks")
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(sandbox)
app.command()(plugins)
app.add_typer(config, name="config")
app.command()(doctor)
app.add_typer(new, name="new")
