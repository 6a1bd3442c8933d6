"""All commands of `mint`: a one-line description, and the function or group of each.

Invariant: a module is imported when its command is called. So `mint` starts fast, and one table has the
commands of the client and those of a whole installation, which the client's own distribution lacks.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import typer
from typer.core import TyperGroup

from mint_client.core.refusals import StackNotInstalledError

_CLIENT, _STACK = "mint_client.commands.", "services.standalone.commands."

COMMANDS: Mapping[str, tuple[str, str]] = {
    "up": (_STACK + "up:up", "Start a stack on this machine."),
    "down": (_CLIENT + "running:down", "Stop the running stack, in order."),
    "status": (_CLIENT + "running:status", "Show the parts of the running stack."),
    "logs": (_STACK + "logs:logs", "Print or follow the log of a part."),
    "doctor": (_STACK + "doctor:doctor", "Check whether this machine can run a stack."),
    "plan": (_STACK + "plan:plan", "Compute what a model needs on GPUs."),
    "top": (_CLIENT + "adapters:top", "Show engines and adapters live."),
    "rollback": (_CLIENT + "aliases:rollback", "Roll an alias back."),
    "whoami": (_CLIENT + "keys:whoami", "Show the stack and key that commands use."),
    "audit": (_CLIENT + "governance:audit", "List changes and who made them."),
    "train": (_CLIENT + "train:train", "Train a policy on a file of rows."),
    "ask": (_CLIENT + "models:ask", "Ask one or more models."),
    "events": (_CLIENT + "events:events", "Print events as they happen."),
    "track": (_CLIENT + "track:track", "Record jobs at MLflow, W&B, trackio or TensorBoard."),
    "backup": (_STACK + "backup:backup", "Copy the stack's database and blobs."),
    "restore": (_STACK + "backup:restore", "Restore a stack from a backup."),
    "gc": (_CLIENT + "gc:gc", "Retire old revisions and remove unused bytes."),
    "migrate": (_STACK + "migrate:migrate", "Migrate a service's tables."),
    "demo": (_STACK + "demo:demo", "Train, serve, promote and roll back in minutes."),
    "base": (_STACK + "base:base_app", "Add, list, show or remove base models."),
    "env": (_STACK + "env:env_app", "Add, list or remove environments to train in."),
    "adapter": (_STACK + "adapter:adapter_app", "Check, merge, pack or unpack adapter folders."),
    "adapters": (_CLIENT + "adapters:adapters_app", "List, pin, load or evict revisions on engines."),
    "policy": (_CLIENT + "policies:policy_app", "List, show, create, import, change or remove policies."),
    "revision": (_CLIENT + "revisions:revision_app", "List, show, compare or upload revisions."),
    "alias": (_CLIENT + "aliases:alias_app", "List, move, remove, protect or freeze aliases."),
    "eval": (_CLIENT + "evaluations:eval_app", "Score revisions; list or record scores."),
    "rule": (_CLIENT + "governance:rule_app", "List, create, pause or remove promotion rules."),
    "key": (_CLIENT + "keys:key_app", "List, create, rotate or revoke API keys."),
    "tenant": (_CLIENT + "governance:tenant_app", "List or create tenants and their keys."),
    "task": (_CLIENT + "jobs:task_app", "List or show tasks to train on."),
    "data": (_CLIENT + "data:data_app", "Check files of training rows."),
    "file": (_CLIENT + "files:file_app", "List or remove uploaded files."),
    "job": (_CLIENT + "jobs:job_app", "Create, watch, pause or export jobs."),
    "webhook": (_CLIENT + "webhooks:webhook_app", "Send events to your own servers."),
    "compose": (_STACK + "compose:compose_app", "Configure the stack of containers."),
}
IS_WHOLE = find_spec("mint_launcher") is not None
"""Whether the commands of a stack on this machine are installed too."""


class CommandTable(TyperGroup):
    """The commands of `mint`, each loaded when it is called."""

    def __init__(self, **options: Any) -> None:  # typer's own
        super().__init__(**{**options, "commands": {}})
        self.commands = _Loading()  # type: ignore[assignment]  # nothing is added to it

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  # typer's own, which it does not export
        """Return the names of commands without loading any."""
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # typer's own too
        """Write the list of commands without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


class _Loading(Mapping[str, Any]):  # typer's commands
    def __getitem__(self, name: str) -> Any:
        return _load(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, (place, _) in COMMANDS.items() if _is_here(place))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _is_here(place: str) -> bool:
    return IS_WHOLE or place.startswith(_CLIENT)


@cache
def _load(name: str) -> Any:
    """Return a command as typer runs it. Raises KeyError for a name that none has."""
    place, summary = COMMANDS[name]
    holder = typer.Typer(rich_markup_mode=None)
    if not _is_here(place):
        takes_all = {"ignore_unknown_options": True, "allow_extra_args": True}
        holder.command(name=name, hidden=True, add_help_option=False, context_settings=takes_all)(_refuse)
    else:
        module, _, attribute = place.partition(":")
        found = getattr(import_module(module), attribute)
        if isinstance(found, typer.Typer):
            holder.add_typer(found, name=name, short_help=summary)
        else:
            holder.command(name=name, short_help=summary)(found)
    return typer.main.get_group(holder).commands[name]


def _refuse(context: typer.Context) -> None:
    raise StackNotInstalledError(command=context.info_name or "")
