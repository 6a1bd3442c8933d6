"""Compute docs/families.md's tables of bases that do not fit here, from transformers' own classes.

The models are made on torch's meta device: shapes without values.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, DeepseekV3Config, GlmMoeDsaConfig, PretrainedConfig

PAGE = Path(__file__).parents[1] / "docs/families.md"
BEGIN, END = "<!-- tables: tools/make_scale_tables.py -->\n", "<!-- end of tables -->\n"
BASES: dict[str, PretrainedConfig] = {
    "Kimi-K2": DeepseekV3Config(
        vocab_size=163840,
        num_attention_heads=64,
        num_key_value_heads=64,
        n_routed_experts=384,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
    ),
    "GLM-5": GlmMoeDsaConfig(),
}
RANKS = (8, 32, 64, 128)
LORA_RANKS = (1, 8, 32)
ATTENTION = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
FLOAT32, BF16, TRAINED = 4, 2, 16
"""Bytes a weight; a trained one has its gradient and two moments beside it."""
GB = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Weights of a base, and LoRA weights a rank, by kind of module."""

    total: int
    experts: int
    largest_layer: int
    lora: dict[str, int]


def sizes_of(config: PretrainedConfig) -> Sizes:
    """Return the sizes of a configuration."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    layers: dict[str, int] = {}
    for name, count in counts.items():
        if name.startswith("model.layers."):
            layer = name.split(".")[2]
            layers[layer] = layers.get(layer, 0) + count
    lora = {"attention": 0, "dense and shared MLP": 0, "experts": 0}
    for kind, weights in _lora_weights(model):
        lora[kind] += weights
    return Sizes(
        total=sum(counts.values()),
        experts=sum(count for name, count in counts.items() if ".mlp.experts." in name),
        largest_layer=max(layers.values()),
        lora=lora,
    )


def _lora_weights(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield the LoRA weights a rank of every site; experts have A and B for each projection."""
    for name, module in model.named_modules():
        leaf = name.rpartition(".")[2]
        if leaf in ATTENTION and "indexer" not in name:
            yield "attention", module.in_features + module.out_features
        elif leaf in MLP and isinstance(module, nn.Linear):
            yield "dense and shared MLP", module.in_features + module.out_features
        elif leaf == "experts":
            count, width, middle = module.down_proj.shape
            yield "experts", count * len(MLP) * (width + middle)


def render() -> str:
    """Return the tables."""
    found = {name: sizes_of(config) for name, config in BASES.items()}
    return "\n".join([BEGIN, *_weights(found), *_per_rank(found), *_adapters(found), END])


def _weights(found: dict[str, Sizes]) -> list[str]:
    rows = []
    for name, one in found.items():
        rest = one.total - one.experts
        counts = f"{one.total / GB:.0f} G | {one.experts / GB:.0f} G | {rest / GB:.1f} G"
        whole = f"{FLOAT32 * one.total / GB:,.0f} GB | {BF16 * one.total / GB:,.0f} GB"
        rows.append(f"| {name} | {counts} | {one.largest_layer / GB:.2f} G | {whole} |")
    head = "| base | weights | in experts | the rest | largest layer | float32 | bf16 |"
    return [head, "|---|---|---|---|---|---|---|", *rows, ""]


_PER_RANK = """\
GB of base on each rank, float32 (bf16). `fsdp` and `zero3` include one gathered layer; with `expert`
everything but the experts is whole on each rank."""


def _per_rank(found: dict[str, Sizes]) -> list[str]:
    head = [
        _PER_RANK,
        "",
        "| base | sharding | " + " | ".join(f"{ranks} ranks" for ranks in RANKS) + " |",
        "|---|---|" + "---|" * len(RANKS),
    ]
    rows = []
    for name, one in found.items():
        shares = {
            "`fsdp`, `zero3`": [one.total / ranks + one.largest_layer for ranks in RANKS],
            "`expert`": [one.experts / ranks + one.total - one.experts for ranks in RANKS],
        }
        rows += [
            f"| {name} | {sharding} | "
            + " | ".join(f"{FLOAT32 * kept / GB:.0f} ({BF16 * kept / GB:.0f})" for kept in each)
            + " |"
            for sharding, each in shares.items()
        ]
    return [*head, *rows, ""]


def _adapters(found: dict[str, Sizes]) -> list[str]:
    head = [
        "Adapters: bytes of an export in float32, and in brackets what a resident policy takes at rank 0.",
        "",
        "| base | targets | weights a rank | " + " | ".join(f"rank {rank}" for rank in LORA_RANKS) + " |",
        "|---|---|---|" + "---|" * len(LORA_RANKS),
    ]
    rows = []
    for name, one in found.items():
        every = {**one.lora, "all": sum(one.lora.values())}
        rows += [
            f"| {name} | {targets} | {weights / 1e6:,.1f} M | "
            + " | ".join(
                f"{_bytes(FLOAT32 * weights * rank)} ({_bytes(TRAINED * weights * rank)})"
                for rank in LORA_RANKS
            )
            + " |"
            for targets, weights in every.items()
        ]
    return [*head, *rows, ""]


def _bytes(count: float) -> str:
    return f"{count / GB:.1f} GB" if count >= GB else f"{count / 1e6:.0f} MB"


def with_tables(page: str) -> str:
    """Return the page with the tables of now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + render() + after


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it is not current")
    page = PAGE.read_text()
    if not parser.parse_args().check:
        PAGE.write_text(with_tables(page))
        return 0
    return int(with_tables(page) != page)


if __name__ == "__main__":
    sys.exit(main())
