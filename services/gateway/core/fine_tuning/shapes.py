"""The LoRA shape of what a job on a file trains. Pure."""

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.errors import InvalidField
from mint_common.events import LoraSpec
from mint_common.lora import plan_lora
from services.gateway.core.fine_tuning.bodies import FineTuningBody, MintFields

RANK = 16


def plan_shape(body: FineTuningBody, base: BaseFacts, *, seed: int) -> LoraSpec:
    """Return the shape of a new policy. Raises InvalidField."""
    wish = body.mint or MintFields()
    rank = min(RANK, base.max_rank) if wish.rank is None else wish.rank
    return plan_lora(base, rank=rank, alpha=wish.alpha, targets=wish.targets, seed=seed, field="mint")


def check_continues(body: FineTuningBody, lora: LoraSpec, *, policy: str) -> None:
    """Refuse what is of a new policy for one that is trained on. Raises InvalidField."""
    if body.suffix is not None:
        problem = f"names a new policy, and model is policy {policy}, which keeps its name"
        raise InvalidField(field="suffix", problem=problem)
    wish = body.mint or MintFields()
    targets = None if wish.targets is None else tuple(sorted(set(wish.targets)))
    for name, value, has in (
        ("rank", wish.rank, lora.rank),
        ("alpha", wish.alpha, lora.alpha),
        ("targets", targets, lora.targets),
    ):
        if value is not None and value != has:
            problem = f"is {has} of policy {policy}, whose shape stays as it was made"
            raise InvalidField(field=f"mint.{name}", problem=problem)
