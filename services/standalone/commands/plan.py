"""`mint plan`: what a model takes of a fleet of GPUs, without starting or downloading it."""

from enum import StrEnum
from typing import Annotated

import msgspec
import typer

from services.standalone.adapters.bases import DEFAULT_MAX_RANK, shape_of
from services.standalone.commands.options import FolderOption, JsonOption, state_folder
from services.standalone.core.columns import FIELD, SHARE
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
from services.standalone.core.model_shape import ModelShape
from services.standalone.core.sizing import needs_of, shown_bytes, told_facts
from services.standalone.core.tables import field_rows
from services.standalone.views.terminal import print_json, print_rows


class WeightDType(StrEnum):
    """What a base's weights may be held in."""

    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


def plan(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A config.json, a folder with one, a base of the state folder, or a hub's ORG/NAME, of "
            "which the config alone is downloaded.",
        ),
    ],
    *,
    fleet: Annotated[
        str, typer.Option(metavar="NxMGB", help="Devices and the memory of each, such as 64x80GB.")
    ] = "",
    dtype: Annotated[
        WeightDType, typer.Option(help="What engines and the trainer hold the weights in.")
    ] = WeightDType.BFLOAT16,
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
    """Tell what a model needs and, for a fleet of GPUs, what each device holds and how many engines fit.

    The sizes are computed from the config. With a fleet that is too small the exit code is 1.

    Example: mint plan Qwen/Qwen3-4B --fleet 1x80GB
    """
    shape = shape_of(state_folder(folder).bases, model)
    if not fleet:
        _print_needs(shape, dtype=dtype.value, max_rank=max_rank, json=json)
        return
    devices = read_fleet(fleet)
    work = Work(dtype=dtype.value, max_rank=max_rank, slots=slots, policies=policies, context=context)
    planned = plan_fleet(shape, work, devices)
    if json:
        print_json(msgspec.to_builtins(planned))
        return
    print_rows([_row(planned.trainer), _row(planned.engine)], SHARE, nothing="")
    typer.echo(_summary(planned, devices, work))


def _print_needs(shape: ModelShape, *, dtype: str, max_rank: int, json: bool) -> None:
    if json:
        print_json(
            {
                "parameters": shape.parameters,
                **msgspec.to_builtins(needs_of(shape, dtype=dtype, max_rank=max_rank)),
            }
        )
    else:
        told = told_facts(shape, quantization="", max_rank=max_rank)
        print_rows(field_rows(told), FIELD, nothing="")


def _row(share: DeviceShare) -> dict[str, object]:
    sizes = {name: shown_bytes(getattr(share, name)) for name in ("weights", "adapters", "moving", "total")}
    return {"part": share.part, "devices": share.devices, "layout": share.layout, **sizes}


def _summary(planned: FleetPlan, fleet: Fleet, work: Work) -> str:
    engine, trainer = planned.engine, planned.trainer
    tokens = work.context + planned.free_bytes // engine.kv_token
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
