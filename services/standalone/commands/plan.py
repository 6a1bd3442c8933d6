"""`mint plan`: what a model takes of a fleet of GPUs, without starting or downloading it."""

import os
from pathlib import Path
from typing import Annotated

import msgspec
import psutil
import typer

from mint_client.commands.options import FolderOption, JsonOption
from mint_client.core.columns import FIELD, HOLDING, SHARE
from mint_client.core.tables import field_rows, shown_bytes
from mint_client.views.terminal import print_json, print_rows
from mint_common.errors import SettingInvalid
from services.standalone.adapters.bases import DEFAULT_MAX_RANK, shape_of
from services.standalone.adapters.gpus import usable_gpus
from services.standalone.adapters.stack_file import load_stack_file
from services.standalone.adapters.stack_parts import read_parts
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.commands.options import state_folder
from services.standalone.core.fleet import (
    RESERVE_BYTES,
    USED_SHARE,
    DeviceShare,
    Fleet,
    FleetPlan,
    Work,
    plan_fleet,
    read_fleet,
)
from services.standalone.core.plan import DType, plan_alike
from services.standalone.core.sizing import needs_of, told_facts
from services.standalone.core.stack_memory import DeviceUse, plan_memory, told_memory
from services.standalone.settings import read_standalone_settings


def plan(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A config.json, a folder with one, a base of the state folder, or a hub's ORG/NAME, of "
            "which the config alone is downloaded.",
        ),
    ] = None,
    *,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="A mint.yaml instead of a model: what each device here, or of --fleet, will hold.",
        ),
    ] = None,
    fleet: Annotated[
        str, typer.Option(metavar="NxMGB", help="Devices and the memory of each, such as 64x80GB.")
    ] = "",
    dtype: Annotated[
        DType,
        typer.Option(
            help="Dtype of the weights in engines and trainer. auto: bfloat16; here, that of `mint up`."
        ),
    ] = "auto",
    max_rank: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=512, help="The rank of slots and policies, on every target."),
    ] = DEFAULT_MAX_RANK,
    slots: Annotated[int, typer.Option(metavar="N", min=1, help="Adapter slots of an engine.")] = 8,
    policies: Annotated[int, typer.Option(metavar="N", min=1, help="Policies resident in the trainer.")] = 8,
    context: Annotated[
        int, typer.Option(metavar="N", min=1, help="Tokens of KV cache that an engine has at least.")
    ] = 2048,
    json: JsonOption = False,
    folder: FolderOption = None,
) -> None:
    """Tell what a model needs and whether this machine has room for it.

    For a fleet of GPUs: what each device holds and how many engines fit. With a file: what each device, or
    the CPU, holds of every part that `mint up -f` would start. Sizes are computed from configs and settings;
    nothing starts. If a fleet or a file's devices have no room, the exit code is 1.

    Example: mint plan Qwen/Qwen3-4B --fleet 1x80GB
    """
    if file is not None:
        if model is not None:
            raise typer.BadParameter("names the models itself", param_hint="--file")
        _plan_file(file, state_folder(folder), fleet=read_fleet(fleet) if fleet else None, json=json)
        return
    if model is None:
        raise typer.BadParameter("say which model, or which file with -f", param_hint="MODEL")
    if not fleet:
        _plan_here(model, state_folder(folder), dtype=dtype, max_rank=max_rank, json=json)
        return
    shape = shape_of(state_folder(folder).bases, model)
    devices = read_fleet(fleet)
    work = Work(dtype=_of_weights(dtype), max_rank=max_rank, slots=slots, policies=policies, context=context)
    planned = plan_fleet(shape, work, devices)
    if json:
        print_json(msgspec.to_builtins(planned))
        return
    print_rows([_row(planned.trainer), _row(planned.engine)], SHARE, nothing="")
    typer.echo(_summary(planned, devices, work))


def _plan_file(file: Path, state: StateFolder, *, fleet: Fleet | None, json: bool) -> None:
    """Plan a stack file. Without a fleet: this machine's memory, and the GPUs that the stack would use."""
    asked = load_stack_file(file)
    overrides = read_standalone_settings(os.environ).overrides
    if fleet is None:
        gpus = {gpu.index: gpu.memory_bytes for gpu in usable_gpus()}
    else:
        gpus = dict.fromkeys(range(fleet.devices), fleet.device_bytes)
    try:
        parts = read_parts(state.bases, asked.bases, overrides=overrides, gpus=list(gpus))
    except SettingInvalid as error:
        raise asked.located(error) from error
    host = psutil.virtual_memory().total if fleet is None else None
    planned = plan_memory(parts, host_bytes=host, gpu_bytes=gpus)
    if json:
        print_json(told_memory(planned))
    else:
        rows = [
            {
                key: shown_bytes(value) if value and isinstance(value, int) else value
                for key, value in row.items()
            }
            for row in told_memory(planned)["holdings"]
        ]
        print_rows(rows, HOLDING, nothing="")
        for use in planned.devices:
            typer.echo(_told_use(use))
    if not planned.fits:
        raise typer.Exit(1)


def _told_use(use: DeviceUse) -> str:
    room = "unknown here" if use.capacity is None else shown_bytes(use.capacity)
    verdict = "" if use.fits else ": does not fit"
    return f"{use.device}: {shown_bytes(use.total)} of {room}{verdict}"


def _of_weights(dtype: DType) -> str:
    return "bfloat16" if dtype == "auto" else dtype


def _plan_here(model: str, state: StateFolder, *, dtype: DType, max_rank: int, json: bool) -> None:
    """Print what a model needs, and whether this machine has the memory that `mint up` takes of it."""
    overrides = read_standalone_settings(os.environ).overrides
    gpus = {gpu.index: gpu.memory_bytes for gpu in usable_gpus()}
    plans = {model: plan_alike(engines=1, dtype=dtype)}
    parts = read_parts(state.bases, plans, overrides=overrides, gpus=list(gpus))
    shape, of_weights = parts[0].base.shape, _of_weights(dtype)
    memory = psutil.virtual_memory()
    planned = plan_memory(parts, host_bytes=memory.total, gpu_bytes=gpus)
    if json:
        needs = msgspec.to_builtins(needs_of(shape, dtype=of_weights, max_rank=max_rank))
        print_json({"parameters": shape.parameters, **needs, "machine": told_memory(planned)})
    else:
        facts = told_facts(shape, quantization="", max_rank=max_rank, dtype=of_weights)
        told = "; ".join(_told_use(use) for use in planned.devices)
        now = f"{told}; {shown_bytes(memory.available)} of the host's are free now"
        rows = {**facts, "trainer and engine here": now}
        print_rows(field_rows(rows), FIELD, nothing="")


def _row(share: DeviceShare) -> dict[str, object]:
    sizes = {name: shown_bytes(getattr(share, name)) for name in ("weights", "adapters", "moving", "total")}
    return {"part": share.part, "devices": share.devices, "layout": share.layout, **sizes}


def _summary(planned: FleetPlan, fleet: Fleet, work: Work) -> str:
    engine, trainer = planned.engine, planned.trainer
    tokens = work.context + planned.free_bytes // max(1, engine.kv_token)
    if planned.shared:
        shares = planned.shares(fleet)
        where = (
            f"{fleet.text} holds both on one device: memory_share {shares[0]:.2f} of the trainer, "
            f"gpu_memory_utilization {shares[1]:.2f} of the engine"
        )
    else:
        idle = f", {planned.idle} idle" if planned.idle else ""
        where = (
            f"{fleet.text} hold a trainer on {trainer.devices} and {planned.engines} x engine on "
            f"{engine.devices}{idle}"
        )
    return (
        f"{where}. An engine has room for {tokens:,} tokens of KV cache.\n"
        f"Computed: {USED_SHARE:.0%} of each device, less {shown_bytes(RESERVE_BYTES)} a part for CUDA,"
        " graphs and buffers; activations of a micro-batch whose layers are computed again."
    )
