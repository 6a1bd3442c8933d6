"""Every command of `mint`: its description in a line, and its function or group.

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
    "up": (_STACK + "up:up", "Start a stack on this machine, keep it running."),
    "down": (_CLIENT + "running:down", "Stop the running stack, in order."),
    "status": (_CLIENT + "running:status", "Show the parts of the running stack."),
    "doctor": (_STACK + "doctor:doctor", "Check this machine, and say what to do."),
    "plan": (_STACK + "plan:plan", "What a model needs of GPUs."),
    "top": (_CLIENT + "adapters:top", "Engines and adapters, live."),
    "rollback": (_CLIENT + "aliases:rollback", "Point an alias at what it pointed at before."),
    "audit": (_CLIENT + "governance:audit", "Who changed what, newest first."),
    "train": (_CLIENT + "train:train", "Train a policy on a file of rows."),
    "ask": (_CLIENT + "models:ask", "What models answer, side by side."),
    "events": (_CLIENT + "events:events", "Events as they happen: JSON, or brief."),
    "backup": (_STACK + "backup:backup", "Copy the stack's database and blobs."),
    "restore": (_STACK + "backup:restore", "Make a stack of a backup."),
    "gc": (_CLIENT + "gc:gc", "Remove stored bytes that no revision uses."),
    "migrate": (_STACK + "migrate:migrate", "Bring a service's tables up to date."),
    "demo": (_STACK + "demo:demo", "Train, serve, promote, roll back: in minutes."),
    "base": (_STACK + "base:base_app", "Base models: add, list, show, remove."),
    "adapter": (_STACK + "adapter:adapter_app", "Pack, unpack or check adapter folders."),
    "adapters": (_CLIENT + "adapters:adapters_app", "Where revisions are; pin, prewarm, evict."),
    "policy": (_CLIENT + "policies:policy_app", "Policies: list, show, create, change."),
    "revision": (_CLIENT + "revisions:revision_app", "Revisions: list, show, compare, upload."),
    "alias": (_CLIENT + "aliases:alias_app", "Aliases: list, move, protect, freeze."),
    "eval": (_CLIENT + "evaluations:eval_app", "Scores: run, list, record."),
    "rule": (_CLIENT + "governance:rule_app", "Promotion rules: list, create, pause."),
    "key": (_CLIENT + "keys:key_app", "API keys: list, create, rotate, revoke."),
    "tenant": (_CLIENT + "governance:tenant_app", "Tenants: list, create, make keys."),
    "task": (_CLIENT + "jobs:task_app", "What can be trained on: list, show."),
    "data": (_CLIENT + "data:data_app", "Files of rows to train on: check."),
    "job": (_CLIENT + "jobs:job_app", "Jobs: create, watch, pause, export."),
    "webhook": (_CLIENT + "webhooks:webhook_app", "Tell your own servers of events."),
    "compose": (_STACK + "compose:compose_app", "A stack of containers: its secrets and choices."),
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
