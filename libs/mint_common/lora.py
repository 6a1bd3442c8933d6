"""The LoRA shape of a new policy, complete and within the limits of its base."""

import math
from collections.abc import Sequence

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.sites import refused_targets, served_targets
from mint_common.errors import InvalidField
from mint_common.events.job import LoraSpec

MAX_ALPHA = 65536
MAX_SEED = 2**53 - 1
"""Largest seed. Seeds travel as JSON numbers, and every JSON reader keeps integers up to this one exact."""


def check_trainable(base: BaseFacts, *, field: str) -> None:
    """Raise InvalidField, naming where a request has the base, for one that is served and not trained."""
    if base.quantization:
        problem = (
            f"base {base.name} is quantized ({base.quantization}) and only served: train over the model that"
            " it was made from, or over a copy that `mint base add --dequantize` makes"
        )
        raise InvalidField(field=field, problem=problem)
    if base.served_only:
        problem = f"base {base.name} is only served: it was added with `mint base add --serve-only`"
        raise InvalidField(field=field, problem=problem)


def check_served(base: BaseFacts, *, field: str) -> None:
    """Raise InvalidField, naming where a request has the base, for one that is trained and not served."""
    if base.trained_only:
        problem = f"base {base.name} is only trained: it was added with `mint base add --train-only`"
        raise InvalidField(field=field, problem=problem)


def plan_lora(
    base: BaseFacts,
    *,
    rank: int,
    alpha: float | None = None,
    targets: Sequence[str] | None = None,
    seed: int = 0,
    field: str = "lora",
) -> LoraSpec:
    """Return the LoRA shape of a policy.

    ``alpha`` None is twice the rank, ``targets`` None are all of the base that engines serve. ``field`` is
    the request's field. Raises InvalidField naming the one that is out of range.
    """
    alpha = float(2 * rank) if alpha is None else alpha
    if not 1 <= rank <= base.max_rank:
        problem = f"must be between 1 and {base.max_rank}, the limit of base {base.name}, got {rank}"
        raise InvalidField(field=f"{field}.rank", problem=problem)
    if not (math.isfinite(alpha) and 0 < alpha <= MAX_ALPHA):
        problem = f"must be above 0 and at most {MAX_ALPHA}, got {alpha}"
        raise InvalidField(field=f"{field}.alpha", problem=problem)
    if not 0 <= seed <= MAX_SEED:
        problem = f"must be between 0 and {MAX_SEED}, got {seed}"
        raise InvalidField(field=f"{field}.seed", problem=problem)
    served = served_targets(base)
    chosen = set(served if targets is None else targets)
    unknown = sorted(chosen - set(served))
    if unknown or not chosen:
        found = ", ".join(unknown) or "no target"
        problem = f"must be among {', '.join(served)}, the targets of base {base.name}, got {found}"
        reasons = {target: why for target, why in refused_targets(base).items() if target in chosen}
        problem += "".join(f"; {target}: {why}" for target, why in reasons.items())
        raise InvalidField(field=f"{field}.targets", problem=problem)
    return LoraSpec(rank=rank, alpha=alpha, targets=tuple(sorted(chosen)), seed=seed)
