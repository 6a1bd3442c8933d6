"""Answers graded: which have a reward, and whether too many have none."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mint_common.datasets import decode_line
from mint_common.graders import Grade, GraderFault
from mint_common.records import Group
from services.rollout.core.fault import DataRefused
from services.rollout.core.sampling import SampledGroup, scored_group

_NOT_GRADED = {"messages", "tools"}
_SHOWN = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedGroup:
    """The samples of a prompt that have a reward, None if none has, and the faults of the others."""

    group: Group | None
    faults: tuple[GraderFault, ...]


def item_of(line: bytes) -> Mapping[str, Any]:  # JSON
    """Return a row's fields for graders, without the prompt. Raises RowProblem."""
    return {name: value for name, value in decode_line(line).items() if name not in _NOT_GRADED}


def graded_group(sampled: SampledGroup, grades: Sequence[Grade | GraderFault]) -> GradedGroup:
    """Return the samples with their rewards; one that a grader failed on is left out."""
    kept = [
        (completion, found.reward)
        for completion, found in zip(sampled.completions, grades, strict=True)
        if isinstance(found, Grade)
    ]
    faults = tuple(found for found in grades if isinstance(found, GraderFault))
    if not kept:
        return GradedGroup(group=None, faults=faults)
    remaining = replace(sampled, completions=tuple(completion for completion, _ in kept))
    return GradedGroup(group=scored_group(remaining, [reward for _, reward in kept]), faults=faults)


def error_counts(faults: Sequence[GraderFault]) -> dict[str, int]:
    """Return how many faults there are of each kind."""
    return dict(sorted(Counter(fault.kind for fault in faults).items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultExcess:
    """Too many faults: how many of how many, and the most frequent kind with an example."""

    share: str
    example: str


def fault_excess(faults: Sequence[GraderFault], *, total: int, max_share: float) -> FaultExcess | None:
    """Return a message if more than ``max_share`` of ``total`` samples, or all, have no reward.

    ``faults`` are those found so far. None: they are few enough.
    """
    if not faults or (len(faults) < total and len(faults) <= max_share * total):
        return None
    kind, count = Counter(fault.kind for fault in faults).most_common(1)[0]
    message = next(fault.message for fault in faults if fault.kind == kind)[:_SHOWN]
    share = f"at least {len(faults)} of {total} samples"
    return FaultExcess(share=share, example=f"{kind} {count} times, such as: {message}")


def check_budget(faults: Sequence[GraderFault], *, total: int, max_share: float) -> None:
    """Refuse samples with too many faults of their grader, see `fault_excess`. Raises DataRefused."""
    excess = fault_excess(faults, total=total, max_share=max_share)
    if excess is not None:
        raise DataRefused(
            where=f"The grader failed on {excess.share}",
            problem=excess.example,
            reason="grader_errors",
            param="grader",
        )
