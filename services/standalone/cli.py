"""The command `mint`."""

import sys

import typer

from mint_common.errors import MintError
from services.standalone.commands.base import base_app
from services.standalone.commands.demo import demo
from services.standalone.commands.doctor import doctor
from services.standalone.commands.running import down, status
from services.standalone.commands.up import up

app = typer.Typer(
    name="mint",
    help=(
        "Train, evaluate, serve and roll back LoRA policies over resident base models.\n\n"
        "Start with `mint doctor` (can this machine do it?), then `mint demo` (the whole story in minutes), "
        "then `mint up` (a stack of your own)."
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(up)
app.command()(down)
app.command()(status)
app.command()(doctor)
app.add_typer(base_app, name="base")
app.command()(demo)


def main() -> None:
    """Run the command line; a refusal is one plain sentence on stderr and exit code 1."""
    try:
        app()
    except MintError as error:
        typer.echo(f"mint: {error}", err=True)
        sys.exit(1)
