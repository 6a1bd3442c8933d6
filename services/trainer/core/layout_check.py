"""Can a policy's LoRA be exported in a layout? Asked before it is trained, not after."""

from dataclasses import dataclass

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.layouts import tensor_specs
from mint_common.adapters_format.names import FUSED
from mint_common.adapters_format.sites import all_sites, has_experts, targeted
from mint_common.errors import AdapterInvalid
from mint_common.events import LoraSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutProblem:
    """A field of a LoRA, and why it keeps exports from having the layout."""

    field: str
    problem: str


def layout_problem(layout: str, lora: LoraSpec, facts: BaseFacts) -> LayoutProblem | None:
    """Return what is wrong. A LoRA without experts has one layout, which every base can have."""
    if layout != FUSED or not has_experts(facts, lora.targets):
        return None
    sites = targeted(all_sites(facts), lora.targets)
    try:
        tensor_specs(layout, sites, rank=lora.rank)
    except AdapterInvalid as error:
        return LayoutProblem(field="targets", problem=f"this trainer exports {layout}: {error}")
    # Training gives gate and up an A each, and both of them have their place in the one that is exported.
    doubled = 2 * lora.rank if any(site.count and site.projection == "gate_proj" for site in sites) else 0
    if doubled > facts.max_rank:
        problem = f"{lora.rank} is exported as {doubled} in {layout}, the base takes up to {facts.max_rank}"
        return LayoutProblem(field="rank", problem=problem)
    return None
