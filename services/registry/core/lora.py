"""The LoRA shape of a new policy, complete and within the limits of its base."""

import math
from collections.abc import Sequence

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.errors import InvalidField
from mint_common.events.job import LoraSpec

MAX_ALPHA = 65536.0
MAX_SEED = 2**63 - 1


def plan_lora(
    facts: BaseFacts, *, rank: int, alpha: float, targets: Sequence[str] | None, seed: int
) -> LoraSpec:
    """Return the shape; ``targets`` None means all of the base. Raises InvalidField naming the field."""
    if not 1 <= rank <= facts.max_rank:
        problem = f"{rank} is not between 1 and {facts.max_rank}, the limit of base {facts.name}"
        raise InvalidField(field="lora.rank", problem=problem)
    if not (math.isfinite(alpha) and 0 < alpha <= MAX_ALPHA):
        raise InvalidField(field="lora.alpha", problem=f"{alpha} is not above 0 and at most {MAX_ALPHA}")
    if not 0 <= seed <= MAX_SEED:
        raise InvalidField(field="lora.seed", problem=f"{seed} is not between 0 and {MAX_SEED}")
    chosen = set(facts.targets if targets is None else targets)
    unknown = sorted(chosen - set(facts.targets))
    if unknown or not chosen:
        found = ", ".join(unknown) or "no target"
        problem = f"{found}: base {facts.name} has {', '.join(facts.targets)}"
        raise InvalidField(field="lora.targets", problem=problem)
    return LoraSpec(rank=rank, alpha=alpha, targets=tuple(sorted(chosen)), seed=seed)
