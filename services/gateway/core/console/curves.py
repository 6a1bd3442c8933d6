"""Series of a job's steps for charts, and their points where no script draws them."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mint_common.json_types import JsonObject

WIDTH, HEIGHT, MARGIN = 600, 140, 6
"""Size of a drawn curve, in its own units."""
MAX_POINTS = 1000
"""Maximum points of a curve; of more steps every n-th is drawn, and the last."""
CURVES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "reward": ("Reward", ("reward_mean", "valid_reward_mean")),
    "loss": ("Loss", ("loss", "valid_loss")),
    "accuracy": ("Token accuracy", ("mean_token_accuracy", "valid_mean_token_accuracy")),
    "kl": ("KL", ("kl_mean", "kl", "lag_kl")),
    "ratio": ("Largest ratio error", ("ratio_max_error",)),
    "staleness": ("Staleness, revisions", ("staleness",)),
    "masked": ("Masked share", ("masked_share",)),
    "tokens": ("Trained tokens", ("trained_tokens",)),
}
"""Charts of a job: the title and the fields of a step that may be there."""
_SHOWN_IF_NOT_ZERO = frozenset({"staleness", "masked"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One chart: the step of each point, and the values of each of its series, None where unknown."""

    name: str
    title: str
    steps: tuple[int, ...]
    series: Mapping[str, tuple[float | None, ...]]

    def data(self) -> JsonObject:
        """Return what the chart's script draws."""
        return {
            "name": self.name,
            "labels": list(self.series),
            "columns": [list(self.steps), *(list(values) for values in self.series.values())],
        }

    def lines(self) -> Iterator[str]:
        """Yield the points of each series for an SVG polyline of `WIDTH` times `HEIGHT`."""
        every = [value for values in self.series.values() for value in values if value is not None]
        low, high = min(every, default=0.0), max(every, default=0.0)
        first, last = (self.steps[0], self.steps[-1]) if self.steps else (0, 0)
        for values in self.series.values():
            yield " ".join(
                f"{_place(step, first, last, WIDTH):.1f},{HEIGHT - _place(value, low, high, HEIGHT):.1f}"
                for step, value in zip(self.steps, values, strict=True)
                if value is not None
            )


def curves_of(steps: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Return the charts of a job's steps: those with a value, of `MAX_POINTS` steps or fewer."""
    stride = -(-len(steps) // MAX_POINTS) or 1
    steps = [*steps[:-1:stride], *steps[-1:]]
    numbers = tuple(int(step["step"]) for step in steps)
    found = []
    for name, (title, fields) in CURVES.items():
        series = {field: tuple(_finite(step.get(field)) for step in steps) for field in fields}
        known = {field: values for field, values in series.items() if _is_known(values)}
        is_empty = name in _SHOWN_IF_NOT_ZERO and not any(map(any, known.values()))
        if known and not is_empty:
            found.append(Curve(name=name, title=title, steps=numbers, series=known))
    return found


def joined(curves: Mapping[str, Iterable[Curve]]) -> list[Curve]:
    """Return the charts of several jobs over one axis of steps; a series is named ``<job> <field>``."""
    by_name: dict[str, list[tuple[str, Curve]]] = {}
    for job, own in curves.items():
        for curve in own:
            by_name.setdefault(curve.name, []).append((job, curve))
    found = []
    for name, members in by_name.items():
        steps = tuple(sorted({step for _, curve in members for step in curve.steps}))
        series = {
            f"{job} {label}": tuple(map(dict(zip(curve.steps, values, strict=True)).get, steps))
            for job, curve in members
            for label, values in curve.series.items()
        }
        found.append(Curve(name=name, title=members[0][1].title, steps=steps, series=series))
    return found


def phases_of(steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the seconds of each phase over all steps."""
    total: dict[str, float] = {}
    for step in steps:
        for phase, seconds in (step.get("phase_seconds") or {}).items():
            if isinstance(seconds, int | float):
                total[phase] = total.get(phase, 0.0) + seconds
    return total


def _finite(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]  # a number


def _is_known(values: Sequence[float | None]) -> bool:
    return any(value is not None for value in values)


def _place(value: float, low: float, high: float, size: int) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return MARGIN + share * (size - 2 * MARGIN)
