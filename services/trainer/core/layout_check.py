"""Does a policy's LoRA fit the base, and can it be exported in a layout? Asked before it is trained."""

import math

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.layouts import tensor_specs
from mint_common.adapters_format.names import FUSED
from mint_common.adapters_format.sites import all_sites, has_experts, targeted
from mint_common.errors import AdapterInvalid
from mint_common.events import LoraSpec
from services.trainer.core.refusals import LoraInvalid


def check_fits(lora: LoraSpec, facts: BaseFacts) -> None:
    """Raise LoraInvalid when a LoRA has no place in the base."""
    if not 1 <= lora.rank <= facts.max_rank:
        raise LoraInvalid(field="rank", problem=f"{lora.rank} is outside 1..{facts.max_rank}")
    if not (math.isfinite(lora.alpha) and lora.alpha > 0):
        raise LoraInvalid(field="alpha", problem=f"{lora.alpha} is not a positive number")
    sites = all_sites(facts)
    unknown = sorted(target for target in lora.targets if not targeted(sites, [target]))
    if unknown or not lora.targets:
        problem = (
            f"{unknown or 'none'} given, the base has {list(facts.targets)}: "
            "a target is one of these, or the last two parts of a module's name"
        )
        raise LoraInvalid(field="targets", problem=problem)


def check_layout(layout: str, lora: LoraSpec, facts: BaseFacts) -> None:
    """Raise LoraInvalid when exports of a LoRA cannot have the layout.

    A LoRA without experts has one layout, which every base can have.
    """
    if layout != FUSED or not has_experts(facts, lora.targets):
        return
    sites = targeted(all_sites(facts), lora.targets)
    try:
        tensor_specs(layout, sites, rank=lora.rank)
    except AdapterInvalid as error:
        problem = f"this trainer exports {layout}: {error}"
        raise LoraInvalid(field="targets", problem=problem) from error
    # Training gives gate and up an A each, and both of them have their place in the one that is exported.
    doubled = 2 * lora.rank if any(site.count and site.projection == "gate_proj" for site in sites) else 0
    if doubled > facts.max_rank:
        problem = f"{lora.rank} is exported as {doubled} in {layout}, the base takes up to {facts.max_rank}"
        raise LoraInvalid(field="rank", problem=problem)
