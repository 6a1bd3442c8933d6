"""The command `mint`."""

import errno
import sys

import typer

from mint_client.core.refusals import LocalFailureError, WatchLostError
from mint_client.table import IS_WHOLE, CommandTable
from mint_common.errors import MintError
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


@app.callback()
def _mint() -> None:
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
    """Print why in one line, and end."""
    typer.echo(f"mint: {error}", err=True)
    sys.exit(code)


def _first(error: Exception) -> Exception:
    return _first(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error
