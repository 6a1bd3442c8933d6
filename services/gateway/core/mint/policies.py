"""A new policy: the wished LoRA shape, complete and within what its base has room for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from mint_common.errors import InvalidField
from mint_common.events import LoraSpec
from services.gateway.core.bounds import check_between, check_positive
from services.gateway.core.json_types import JsonObject
from services.gateway.core.mint.jobs import MAX_SEED

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
MAX_ALPHA = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraRequest:
    """The wished LoRA shape: ``alpha`` is twice the rank by default, ``targets`` all that the base allows."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    rank: int = 16
    alpha: float | None = None
    targets: tuple[str, ...] | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionRequest:
    """Which revisions stay: the newest ``keep_last``, and all of the last ``keep_days`` days."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    keep_last: int | None = None
    keep_days: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRequest:
    """The body of ``POST /mint/v1/policies``."""

    __pydantic_config__: ClassVar[JsonObject] = {
        "extra": "forbid",
        "json_schema_extra": {
            "examples": [{"name": "copy", "base": "tiny", "lora": {"rank": 8}, "labels": {"team": "search"}}]
        },
    }

    name: str
    base: str
    lora: LoraRequest = field(default_factory=LoraRequest)
    description: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    retention: RetentionRequest = field(default_factory=RetentionRequest)


def check_name(field_name: str, name: str) -> None:
    """Refuse a name that could not be written into a model id (``policy@alias``)."""
    if NAME.fullmatch(name) is None:
        raise InvalidField(field=field_name, problem=f"must match ^{NAME.pattern}$, got {name!r}")


def split_labels(text: str | None) -> tuple[tuple[str, str], ...]:
    """Return the labels that a list asks for, written ``team=search,stage=prod``. Raises InvalidField.

    Whether they could be labels is the registry's to say.
    """
    found = []
    for part in text.split(",") if text is not None else ():
        label, equals, value = part.partition("=")
        if not equals:
            raise InvalidField(field="labels", problem=f"must read label=value,label=value, got {text!r}")
        found.append((label, value))
    return tuple(found)


def plan_lora(request: LoraRequest, *, max_rank: int, targets: Sequence[str]) -> LoraSpec:
    """Return the complete LoRA shape. Raises InvalidField, named as in the request (``lora.rank``)."""
    if not 1 <= request.rank <= max_rank:
        problem = f"must be between 1 and {max_rank}, the base's limit, got {request.rank}"
        raise InvalidField(field="lora.rank", problem=problem)
    alpha = float(2 * request.rank) if request.alpha is None else request.alpha
    check_positive("lora.alpha", alpha, MAX_ALPHA)
    check_between("lora.seed", request.seed, 0, MAX_SEED)
    chosen = set(targets if request.targets is None else request.targets)
    if not chosen:
        raise InvalidField(field="lora.targets", problem="must name at least one module")
    unknown = sorted(chosen - set(targets))
    if unknown:
        problem = f"{', '.join(unknown)} not among the base's targets {', '.join(sorted(targets))}"
        raise InvalidField(field="lora.targets", problem=problem)
    return LoraSpec(rank=request.rank, alpha=alpha, targets=tuple(sorted(chosen)), seed=request.seed)
