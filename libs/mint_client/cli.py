"""The command `mint`."""

import errno
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from mint_client.core.refusals import LocalFailureError, WatchLostError
from mint_client.table import IS_WHOLE, CommandTable
from mint_common.errors import InvalidField, MintError
from mint_common.private_files import make_files_private

LOST = 3
"""Exit code of a command that follows a job and lost its gateway; 1 is a failed job."""
_ON_THIS_MACHINE = (
    "Start with `mint doctor` (can this machine run a stack?), then `mint demo` (everything in minutes), "
    "then `mint up` (your own stack).\n\n"
)

app = typer.Typer(
    name="mint",
    cls=CommandTable,
    help=(
        "Train, evaluate, serve and roll back LoRA policies over resident base models.\n\n"
        f"{_ON_THIS_MACHINE if IS_WHOLE else ''}"
        "To train on a file of rows: `mint train FILE --base BASE`. To train on a task: `mint task list`, "
        "`mint policy create`, `mint job create --watch`. Then `mint revision list`, `mint ask`, `mint alias "
        "move`, `mint rollback`.\n\n"
        "A command uses the stack of --dir. Default: the stack at MINT_URL with the key MINT_API_KEY; if "
        "MINT_URL is not set, the stack of ~/.mint."
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001  # typer's own
    if wanted:
        typer.echo(f"mint {version('mint-stack' if IS_WHOLE else 'mint-client')}")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
]


@app.callback()
def _mint(*, _version: VersionOption = False) -> None:
    """Make it a group: its commands are in a table."""


def main() -> None:
    """Run the command line. A refusal is one sentence on stderr and exit code 1; `LOST` for a lost watch."""
    make_files_private()
    try:
        app()
    except WatchLostError as error:
        refuse(error, LOST)
    except MintError as error:
        refuse(error)
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        refuse(LocalFailureError(what=str(error.filename or "disk full"), problem=str(error.strerror)))
    except ExceptionGroup as group:
        refusals = group.subgroup(MintError)
        if refusals is None:
            raise
        refuse(_first(refusals))


def refuse(error: Exception, code: int = 1) -> None:
    """Print why in one line, and end. A field is named as its user knows it: most are options."""
    told = f"{error.field}: {error.problem}" if type(error) is InvalidField else str(error)
    typer.echo(f"mint: {told}", err=True)
    sys.exit(code)


def _first(error: Exception) -> Exception:
    return _first(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error
