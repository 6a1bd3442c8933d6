"""Compute docs/reference/families.md's tables of large bases as `mint plan` does, from configs alone."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from generated_page import ROOT, between, generate

from mint_client.core.tables import shown_bytes
from services.standalone.adapters.model_sizes import shape_of_folder
from services.standalone.core.fleet import (
    DeviceShare,
    Work,
    plan_fleet,
    read_fleet,
    trainer_layouts,
)
from services.standalone.core.model_shape import ModelShape
from services.standalone.core.refusals import FleetTooSmallError
from services.standalone.core.sizing import ITEM_BYTES, RESIDENT_BYTES

PAGE = ROOT / "docs/reference/families.md"
BEGIN, END = "<!-- tables: tools/make_scale_tables.py -->\n", "<!-- end of tables -->\n"
CONFIGS = Path(__file__).parent / "configs"
BASES = {"Kimi-K2": "kimi-k2", "GLM-5": "glm-5"}
DEVICES = (8, 32, 64, 128)
FLEETS = ("64x80GB", "128x80GB", "256x80GB")
LORA_RANKS = (1, 8, 32)
WORK = Work(dtype="bfloat16", max_rank=1, slots=2, policies=2, context=2048)
OPTIONS = f"--max-rank {WORK.max_rank} --slots {WORK.slots} --policies {WORK.policies}"
KINDS = {"experts.": "experts", "shared_experts.": "dense and shared MLP"}
MLP = ("gate_proj", "up_proj", "down_proj")
GB = 1e9


def render() -> str:
    """Return the page with the tables of now."""
    shapes = {name: shape_of_folder(CONFIGS / folder) for name, folder in BASES.items()}
    tables = [*_weights(shapes), *_per_device(shapes), *_plans(shapes), *_adapters(shapes)]
    return between(PAGE, BEGIN, END, "\n".join(tables))


def _table(head: str, rows: list[str]) -> list[str]:
    return [f"| {head} |", "|" + "---|" * (head.count("|") + 1), *(f"| {row} |" for row in rows), ""]


def _weights(shapes: Mapping[str, ModelShape]) -> list[str]:
    rows = []
    for name, one in shapes.items():
        rest = one.parameters - one.expert_parameters
        counts = f"{one.parameters / GB:.0f} G | {one.expert_parameters / GB:.0f} G | {rest / GB:.1f} G"
        whole = " | ".join(f"{ITEM_BYTES[dtype] * one.parameters / GB:,.0f} GB" for dtype in _DTYPES)
        rows.append(f"{name} | {counts} | {one.layer_parameters / GB:.2f} G | {whole}")
    return _table("base | weights | in experts | the rest | largest layer | float32 | bf16", rows)


_DTYPES = ("float32", "bfloat16")
_PER_DEVICE = """\
GB of base on each device of a trainer, float32 (bf16). `fsdp` and `zero3` include one gathered layer; with
`expert` everything but the experts is whole on each device.
"""


def _per_device(shapes: Mapping[str, ModelShape]) -> list[str]:
    rows = []
    for name, one in shapes.items():
        layouts = [trainer_layouts(one, devices) for devices in DEVICES]
        for layout, shown in (("fsdp", "`fsdp`, `zero3`"), ("expert", "`expert`")):
            cells = [
                " (".join(f"{ITEM_BYTES[d] * each[layout] / GB:.0f}" for d in _DTYPES) for each in layouts
            ]
            rows.append(f"{name} | {shown} | " + " | ".join(f"{cell})" for cell in cells))
    heads = " | ".join(f"{count} devices" for count in DEVICES)
    return [_PER_DEVICE, *_table(f"base | sharding | {heads}", rows)]


def _plans(shapes: Mapping[str, ModelShape]) -> list[str]:
    rows = [f"{name} | {fleet} | {_plan(shape, fleet)}" for name, shape in shapes.items() for fleet in FLEETS]
    said = f"Whole fleets in bf16: `mint plan tools/configs/kimi-k2 --fleet 64x80GB {OPTIONS}`, and so on.\n"
    return [
        said,
        *_table("base | fleet | trainer | a device of it | engines | a device of each | idle", rows),
    ]


def _plan(shape: ModelShape, fleet: str) -> str:
    try:
        planned = plan_fleet(shape, WORK, read_fleet(fleet))
    except FleetTooSmallError as error:
        return f"too small: {error.fields['problem']} | | | |"
    trainer, engine = planned.trainer, planned.engine
    return (
        f"{trainer.devices}, {trainer.layout} | {_held(trainer)} | {planned.engines} x {engine.devices}, "
        f"{engine.layout} | {_held(engine)} | {planned.idle}"
    )


def _held(share: DeviceShare) -> str:
    parts = ("weights", share.weights), ("adapters", share.adapters), (share.moves, share.moving)
    return ", ".join(f"{shown_bytes(size)} {name}" for name, size in parts)


def _adapters(shapes: Mapping[str, ModelShape]) -> list[str]:
    said = (
        "Adapters: bytes of an export in float32, and in brackets what a resident policy takes at rank 0.\n"
    )
    rows = []
    for name, shape in shapes.items():
        lora = dict.fromkeys(("attention", "dense and shared MLP", "experts"), 0)
        for kind, weights in _lora_weights(shape):
            lora[kind] += weights
        for targets, weights in {**lora, "all": shape.lora_parameters(1)}.items():
            cells = [
                f"{shown_bytes(ITEM_BYTES['float32'] * weights * rank)} "
                f"({shown_bytes(RESIDENT_BYTES * weights * rank)})"
                for rank in LORA_RANKS
            ]
            rows.append(f"{name} | {targets} | {weights / 1e6:,.1f} M | " + " | ".join(cells))
    ranks = " | ".join(f"rank {rank}" for rank in LORA_RANKS)
    return [said, *_table(f"base | targets | weights a rank | {ranks}", rows)]


def _lora_weights(shape: ModelShape) -> Iterator[tuple[str, int]]:
    """Yield the LoRA weights a rank of every site, by kind."""
    for each in shape.lora_linears:
        prefix, dot, _ = each.name.rpartition(".")
        usual = "dense and shared MLP" if each.name in MLP else "attention"
        yield KINDS.get(prefix + dot, usual), (each.inputs + each.outputs) * each.count


if __name__ == "__main__":
    generate(__doc__, {PAGE: render})
