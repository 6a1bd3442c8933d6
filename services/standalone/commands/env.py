"""`mint env`: the environments of a state folder that jobs train in."""

import time
from typing import Annotated

import msgspec
import typer

from mint_client.commands.options import FolderOption, JsonOption
from mint_client.core.columns import ENVIRONMENT
from mint_client.views.terminal import print_json, print_rows
from services.rollout.core.installed_environment import INSTALLED_KINDS
from services.standalone.adapters.environments import (
    EnvironmentWish,
    add_environment,
    list_environments,
    remove_environment,
)
from services.standalone.commands.options import state_folder

env_app = typer.Typer(
    help="Environments to train in: add, list, remove. Each is installed apart from MinT and from others.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@env_app.command()
def add(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help=f"Its interface: {', '.join(INSTALLED_KINDS)}.")
    ],
    package: Annotated[
        str,
        typer.Argument(
            metavar="PACKAGE",
            help="PACKAGE==VERSION, with extras if any; or a wheel; or a folder with pyproject.toml. "
            "Of kind http: the URL that rewards answers; it needs a --name.",
        ),
    ],
    others: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="PACKAGE", help="A further package, such as a pin. Can be repeated."),
    ] = None,
    *,
    python: Annotated[
        str, typer.Option(metavar="PYTHON", help="A version, or the path of a Python. Default: MinT's own.")
    ] = "",
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Its name in jobs. Default: the package's own name.")
    ] = "",
    entry: Annotated[
        str,
        typer.Option(
            metavar="MODULE:NAME",
            help="Function or class that makes the environment of a job's arguments. Default: "
            "load_environment of the package's module.",
        ),
    ] = "",
    network: Annotated[
        bool,
        typer.Option(
            "--network",
            help="Let its code use this machine's network, such as a hub of data sets. It then reaches the "
            "stack's own servers too.",
        ),
    ] = False,
    folder: FolderOption = None,
) -> None:
    """Install an environment's package, with all that it needs, in a venv of its own.

    uv installs it, from the indexes that uv and pip are configured for. Jobs never install anything.

    Example: mint env add verifiers ./my_environment
    """
    state = state_folder(folder)
    state.create()
    began = time.monotonic()
    wish = EnvironmentWish(
        kind=kind,
        requirement=package,
        name=name,
        python=python,
        entry=entry,
        others=others or (),
        network=network,
    )
    made = add_environment(state.environments, wish)
    typer.echo(
        f"environment {made.name}: {len(made.versions)} packages, Python {made.python}, "
        f"{time.monotonic() - began:.0f} s"
    )


@env_app.command(name="list")
def list_command(folder: FolderOption = None, *, as_json: JsonOption = False) -> None:
    """List the installed environments.

    Example: mint env list
    """
    place = state_folder(folder).environments
    rows = [
        {**msgspec.to_builtins(each), "packages": len(each.versions)} for each in list_environments(place)
    ]
    if as_json:
        print_json(rows)
    else:
        print_rows(
            rows, ENVIRONMENT, nothing=f"no environment in {place}; add one: mint env add KIND PACKAGE"
        )


@env_app.command()
def rm(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An environment's name.")],
    folder: FolderOption = None,
) -> None:
    """Remove an environment. Jobs that train in it fail at their next step.

    Example: mint env rm my-environment
    """
    remove_environment(state_folder(folder).environments, name)
    typer.echo(f"removed {name}")
