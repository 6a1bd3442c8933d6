"""LoraConfig: which modules of a base are trained, and the scale of the update.

The scale is Tinker's: alpha is 32 whatever the rank, so that its learning rates carry over. The unembedding
is never trained, because engines cannot serve its adapters; clients ask for it by default, so asking for it
together with other modules is accepted.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.layer_kinds import TOKENWISE
from mint_common.adapters_format.names import leaf_of
from mint_common.adapters_format.sites import served_targets
from mint_common.errors import InvalidField
from mint_common.events import LoraSpec
from mint_common.lora import plan_lora

ALPHA = 32.0
ORG = "mint/"
"""Clients know bases as ``org/name``; a base answers to its bare name, too."""
_MIXERS = ("attn", "attention", "mamba", "conv")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """The request of a client."""

    rank: int
    seed: int | None = None
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True


def lora_of(wish: LoraConfig, base: BaseFacts, *, model_id: str) -> LoraSpec:
    """Return the LoRA shape; without a seed, the run gets one of its own. Raises InvalidField."""
    wanted = {True: wish.train_attn, False: wish.train_mlp}
    targets = {
        target
        for target in served_targets(base)
        if any(wanted[_is_attention(module, base)] for module in _modules(target, base))
    }
    if not targets:
        problem = "train_attn or train_mlp must be true: the unembedding alone cannot be trained here"
        raise InvalidField(field="lora_config", problem=problem)
    seed = _seed_of(model_id) if wish.seed is None else wish.seed
    return plan_lora(
        base, rank=wish.rank, alpha=ALPHA, targets=sorted(targets), seed=seed, field="lora_config"
    )


def _modules(target: str, base: BaseFacts) -> Iterable[str]:
    """Yield the modules of a leaf name (``q_proj``)."""
    yield from (module for module in base.modules if leaf_of(module) == target)
    yield from (module for module, experts in base.experts.items() if target in experts.projections)


def _is_attention(module: str, base: BaseFacts) -> bool:
    """Return whether a module mixes tokens: of attention, a delta net, Mamba or a convolution."""
    parts = module.split(".")
    if "mixer" in parts:  # a layer is one block, of one kind
        layer = next(int(part) for part in parts if part.isdecimal())
        return base.layer_kinds[layer] not in TOKENWISE
    return any(word in part for part in parts for word in _MIXERS)


def base_name(text: str) -> str:
    """Return the name of a base in either spelling."""
    return text.removeprefix(ORG)


def _seed_of(model_id: str) -> int:
    return int.from_bytes(hashlib.sha256(model_id.encode()).digest()[:6], "big")
