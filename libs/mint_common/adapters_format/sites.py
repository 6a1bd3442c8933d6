"""Sites of an adapter: every dense module, and every projection of a layer's experts.

A target is a leaf name (``up_proj``) or, where that would match too many modules, the last two parts of a
name (``experts.up_proj``, ``shared_experts.up_proj``): it selects every site whose name ends so.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.names import leaf_of, twig_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One place of the base with its own B @ A; ``count`` is 0 for a dense module, else the experts'.

    ``module`` is the dense module, or the experts module without the projection. ``interleaved`` experts have
    gate and up as one parameter, row by row in turns.
    """

    name: str
    module: str
    width_in: int
    width_out: int
    count: int
    interleaved: bool = False

    @property
    def projection(self) -> str:
        """Return the leaf name."""
        return leaf_of(self.name)

    @property
    def stored_name(self) -> str:
        """Return the usual name in a base's files, of which the facts have the exceptions."""
        return f"{self.module}.*.{self.projection}" if self.count else self.name


# Parts of a module's name in the order in which a forward pass, and so an engine's load, comes to them.
_FORWARD = (
    "self_attn",
    "mlp",
    "q_proj",
    "q_a_proj",
    "q_b_proj",
    "k_proj",
    "v_proj",
    "kv_a_proj_with_mqa",
    "kv_b_proj",
    "o_proj",
    "experts",
    "shared_experts",
    "gate_proj",
    "up_proj",
    "down_proj",
)
FOLDED = "kv_b_proj"
"""The projection of latent attention that engines read only when they load the base, so that LoRA beside it
has no effect. DeepSeek-AI 2024 (arXiv 2405.04434), section 2.1.2: W_UK goes into the query's product, W_UV
into the output's."""
FOLDED_PROBLEM = "engines fold it into other products, so that LoRA there has no effect"
ROTATED = ("q_proj", "k_proj")
"""Llama 4's: vLLM reorders their rows for its rotary embedding (`permute_qk_weight_for_rotary`)."""
ROTATED_PROBLEM = "vLLM reorders its rows as it loads the base, and not those of adapters"

_RANK = {part: rank for rank, part in enumerate(_FORWARD)}


@lru_cache(maxsize=4)
def all_sites(facts: BaseFacts) -> tuple[Site, ...]:
    """Return every site of a base in load order: by layer, in the order of a forward pass."""
    dense = (
        Site(name=name, module=name, width_in=width_in, width_out=width_out, count=0)
        for name, (width_in, width_out) in facts.modules.items()
    )
    routed = (
        Site(
            name=f"{module}.{projection}",
            module=module,
            width_in=width_in,
            width_out=width_out,
            count=experts.count,
            interleaved=experts.interleaved,
        )
        for module, experts in facts.experts.items()
        for projection, (width_in, width_out) in experts.projections.items()
    )
    return tuple(sorted([*dense, *routed], key=lambda site: load_order(site.name)))


@lru_cache(maxsize=1 << 16)
def load_order(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return the sort key of a module's name."""
    return tuple(
        (_RANK.get(part, len(_RANK)), int(part) if part.isdecimal() else -1, part) for part in name.split(".")
    )


def targeted(sites: Iterable[Site], targets: Collection[str]) -> list[Site]:
    """Return the sites that targets select, in their order."""
    wanted = set(targets)
    return [site for site in sites if leaf_of(site.name) in wanted or twig_of(site.name) in wanted]


_REFUSED = dict.fromkeys(
    ("Llama4ForCausalLM", "Llama4ForConditionalGeneration"), dict.fromkeys(ROTATED, ROTATED_PROBLEM)
)
"""Targets of an architecture that no engine serves right, each with the reason."""


def refused_targets(facts: BaseFacts) -> Mapping[str, str]:
    """Return the targets of a base that are not served or not trained, each with the reason."""
    known = {FOLDED: FOLDED_PROBLEM} | _REFUSED.get(facts.architecture, {}) | facts.refused
    return {target: reason for target, reason in known.items() if target in facts.targets}


def served_targets(facts: BaseFacts) -> tuple[str, ...]:
    """Return the targets of a base that a policy may have."""
    refused = refused_targets(facts)
    return tuple(target for target in facts.targets if target not in refused)


def has_experts(facts: BaseFacts, targets: Collection[str]) -> bool:
    """Return whether targets select any experts."""
    return any(site.count for site in targeted(all_sites(facts), targets))


def targets_of(sites: Collection[Site], chosen: Collection[Site]) -> tuple[str, ...]:
    """Return the shortest sorted targets that select the chosen sites, and as few others as targets can."""
    names = {site.name for site in chosen}
    targets: set[str] = set()
    for leaf in {leaf_of(name) for name in names}:
        alike = {site.name for site in sites if leaf_of(site.name) == leaf}
        mine = {name for name in names if leaf_of(name) == leaf}
        twigs = {twig_of(name) for name in mine}
        by_twig = {name for name in alike if twig_of(name) in twigs}
        targets |= twigs if by_twig != alike else {leaf}
    return tuple(sorted(targets))


def site_names(site: Site) -> list[str]:
    """Return the module names of a site's tensors: its own, and each expert's."""
    return [site.name, *(f"{site.module}.{expert}.{site.projection}" for expert in range(site.count))]
