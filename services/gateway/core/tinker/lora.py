"""LoraConfig: which modules of a base are trained, and the scale of the update.

The scale is Tinker's: alpha is 32 whatever the rank, so that its learning rates carry over. The unembedding
is never trained, because engines cannot serve its adapters; clients ask for it by default, so asking for it
together with other modules is accepted.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.sites import served_targets
from mint_common.errors import InvalidField
from mint_common.events import LoraSpec
from mint_common.lora import plan_lora

ALPHA = 32.0
ORG = "mint/"
"""Clients know bases as ``org/name``; a base answers to its bare name, too."""


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
    targets = {
        target
        for target in served_targets(base)
        if (wish.train_attn and _is_attention(target, base)) or (wish.train_mlp and _is_mlp(target, base))
    }
    if not targets:
        problem = "train_attn or train_mlp must be true: the unembedding alone cannot be trained here"
        raise InvalidField(field="lora_config", problem=problem)
    seed = _seed_of(model_id) if wish.seed is None else wish.seed
    return plan_lora(
        base, rank=wish.rank, alpha=ALPHA, targets=sorted(targets), seed=seed, field="lora_config"
    )


def _is_attention(target: str, base: BaseFacts) -> bool:
    """Return whether attention has a module of that name (``q_proj``)."""
    return any("attn" in parent or "attention" in parent for parent in _parents(target, base))


def _is_mlp(target: str, base: BaseFacts) -> bool:
    """Return whether an MLP or its experts have a module of that name: any outside attention."""
    return any("attn" not in parent and "attention" not in parent for parent in _parents(target, base))


def base_name(text: str) -> str:
    """Return the name of a base in either spelling."""
    return text.removeprefix(ORG)


def _parents(target: str, base: BaseFacts) -> Iterable[str]:
    for module in base.modules:
        parent, _, leaf = module.rpartition(".")
        if leaf == target:
            yield parent
    for module, experts in base.experts.items():
        if target in experts.projections:
            yield module


def _seed_of(model_id: str) -> int:
    return int.from_bytes(hashlib.sha256(model_id.encode()).digest()[:6], "big")
