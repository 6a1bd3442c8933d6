"""The command `mint`."""

import errno
import sys

import typer

from mint_common.errors import MintError
from mint_common.runtime.private_files import make_files_private
from services.standalone.commands.adapter import adapter_app
from services.standalone.commands.adapters import adapters_app, top
from services.standalone.commands.aliases import alias_app, rollback
from services.standalone.commands.api import api_command
from services.standalone.commands.backup import backup, restore
from services.standalone.commands.base import base_app
from services.standalone.commands.compose import compose_app
from services.standalone.commands.data import data_app
from services.standalone.commands.demo import demo
from services.standalone.commands.doctor import doctor
from services.standalone.commands.evaluations import eval_app
from services.standalone.commands.events import events
from services.standalone.commands.gc import gc
from services.standalone.commands.governance import audit, rule_app, tenant_app
from services.standalone.commands.jobs import job_app, task_app
from services.standalone.commands.keys import key_app
from services.standalone.commands.migrate import migrate
from services.standalone.commands.models import ask
from services.standalone.commands.plan import plan
from services.standalone.commands.policies import policy_app
from services.standalone.commands.revisions import revision_app
from services.standalone.commands.running import down, status
from services.standalone.commands.train import train
from services.standalone.commands.up import up
from services.standalone.commands.webhooks import webhook_app
from services.standalone.core.refusals import LocalFailureError

app = typer.Typer(
    name="mint",
    help=(
        "Train, evaluate, serve and roll back LoRA policies over resident base models.\n\n"
        "Start with `mint doctor` (can this machine do it?), then `mint demo` (all of it in minutes), "
        "then `mint up` (a stack of your own).\n\n"
        "On a file of your own: `mint train FILE --base BASE`. On a task: `mint task list`, `mint policy "
        "create`, `mint job create --watch`. Then `mint revision list`, `mint ask`, `mint alias move`, `mint "
        "rollback`.\n\n"
        "A command speaks to the stack of --dir, else to that at MINT_URL with the key MINT_API_KEY, else to "
        "that of ~/.mint."
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command(short_help="Start a stack on this machine, keep it running.")(up)
app.command(short_help="Stop the running stack, in order.")(down)
app.command(short_help="Show the parts of the running stack.")(status)
app.command(short_help="Check this machine, and say what to do.")(doctor)
app.command(short_help="What a model needs of GPUs.")(plan)
app.add_typer(base_app, name="base", short_help="Base models: add, list, show, remove.")
app.add_typer(adapter_app, name="adapter", short_help="Pack, unpack or check adapter folders.")
app.add_typer(adapters_app, name="adapters", short_help="Where revisions are; pin, prewarm, evict.")
app.command(short_help="Engines and adapters, live.")(api_command(top))
app.add_typer(policy_app, name="policy", short_help="Policies: list, show, create, change.")
app.add_typer(revision_app, name="revision", short_help="Revisions: list, show, compare, upload.")
app.add_typer(alias_app, name="alias", short_help="Aliases: list, move, protect, freeze.")
app.command(short_help="Point an alias at what it pointed at before.")(api_command(rollback))
app.add_typer(eval_app, name="eval", short_help="Scores: run, list, record.")
app.add_typer(rule_app, name="rule", short_help="Promotion rules: list, create, pause.")
app.add_typer(key_app, name="key", short_help="API keys: list, create, rotate, revoke.")
app.add_typer(tenant_app, name="tenant", short_help="Tenants: list, create, make keys.")
app.command(short_help="Who changed what, newest first.")(api_command(audit))
app.add_typer(task_app, name="task", short_help="What can be trained on: list, show.")
app.add_typer(data_app, name="data", short_help="Files of rows to train on: check.")
app.command(short_help="Train a policy on a file of rows.")(api_command(train))
app.add_typer(job_app, name="job", short_help="Jobs: create, watch, pause, export.")
app.command(short_help="What models answer, side by side.")(api_command(ask))
app.command(short_help="Events as they happen: JSON, or brief.")(api_command(events))
app.add_typer(webhook_app, name="webhook", short_help="Tell your own servers of events.")
app.command(short_help="Copy the stack's database and blobs.")(backup)
app.command(short_help="Make a stack of a backup.")(restore)
app.command(short_help="Remove what nobody uses.")(api_command(gc))
app.command(short_help="Bring a service's tables up to date.")(migrate)
app.add_typer(compose_app, name="compose", short_help="A stack of containers: its secrets and choices.")
app.command(short_help="Train, serve, promote, roll back: in minutes.")(demo)


def main() -> None:
    """Run the command line; a refusal is one plain sentence on stderr and exit code 1."""
    make_files_private()
    try:
        app()
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


def refuse(error: Exception) -> None:
    """Print why in one line, and end."""
    typer.echo(f"mint: {error}", err=True)
    sys.exit(1)


def _first(error: Exception) -> Exception:
    return _first(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error
