"""``optim_step``: AdamW with decoupled weight decay and a clip of the global norm; no other optimizer."""

from dataclasses import dataclass

from mint_common.errors import InvalidField
from mint_common.training import Step
from services.gateway.core.json_types import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamParams:
    """The numbers of a step; the defaults are the SDK's."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0


def plan_step(adam: AdamParams | None, other: JsonObject | None) -> Step:
    """Return the step. Raises InvalidField for another optimizer, or numbers that are none of AdamW's."""
    if other is not None:
        check_optimizer(other)
        raise InvalidField(field="optimizer_params", problem="is for other optimizers: send adam_params")
    wish = adam or AdamParams()
    return Step(
        learning_rate=wish.learning_rate,
        beta1=wish.beta1,
        beta2=wish.beta2,
        eps=wish.eps,
        weight_decay=wish.weight_decay,
        clip_norm=wish.grad_clip_norm,
    )


def check_optimizer(config: JsonObject | None) -> None:
    """Refuse an optimizer that is not AdamW. Raises InvalidField."""
    kind = "adamw" if config is None else config.get("type", "adamw")
    if kind != "adamw":
        raise InvalidField(field="optimizer_config.type", problem=f"must be adamw, got {str(kind)[:50]!r}")
