"""The options of commands that name an environment."""

import json
from typing import Annotated

import typer

from mint_client.adapters.public_api import Json

EnvOption = Annotated[
    str | None, typer.Option(metavar="KIND:ID", help="An installed environment, in place of a task.")
]
JobEnvOption = Annotated[
    str | None,
    typer.Option(
        metavar="KIND:ID",
        help="An installed environment in place of a task; `session`: agents that claim episodes.",
    ),
]
EnvArgsOption = Annotated[
    str, typer.Option(metavar="JSON", help="Arguments of the environment: a JSON object.")
]
MaxTurnsOption = Annotated[int | None, typer.Option(metavar="N", help="Maximum model calls of an episode.")]
SplitOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Split of the environment's tasks. Default: eval.")
]


def environment_of(
    env: str | None, args: str, max_turns: int | None, *, split: str | None = None
) -> Json | None:
    """Return the environment of a request; None without one. Raises BadParameter."""
    if env is None:
        _check_unused({"--env-args": args != "{}", "--max-turns": max_turns, "--split": split})
        return None
    kind, _, name = env.partition(":")
    if not kind or not (name or env == "session"):
        raise typer.BadParameter(
            f"{env!r} is neither KIND:ID, such as verifiers:sums, nor session", param_hint="--env"
        )
    try:
        read = json.loads(args)
    except ValueError as error:
        raise typer.BadParameter(f"is not JSON: {error}", param_hint="--env-args") from error
    wishes = {"max_turns": max_turns, "split": split}
    return {
        "kind": kind,
        **({"id": name} if name else {}),
        "args": read,
        **{key: wish for key, wish in wishes.items() if wish is not None},
    }


def _check_unused(given: Json) -> None:
    for name, value in given.items():
        if value:
            raise typer.BadParameter("goes with --env", param_hint=name)
