"""Measurements of a job's steps for other programs: CSV, and scalars by their usual names."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FIRST = ("step", "epoch", "learning_rate", "loss", "mean_token_accuracy", "reward_mean")
"""The first columns of a CSV; the others follow in the order of their names."""
_VALID = "valid_"
_NO_METRICS = ("step", "sampled_number", "requested_at", "completed_at", "published_at", "scored_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalar:
    """One number of a step: ``train/NAME``, or ``eval/NAME`` if it was measured on validation rows.

    ``at`` is when the step ended, in seconds since the epoch; None: it has not.
    """

    name: str
    step: int
    value: float
    at: float | None


def curves_csv(steps: Sequence[Mapping[str, Any]]) -> str:  # the gateway's JSON
    """Return one line of numbers per step, in columns named as in the API; missing measurements are empty."""
    found = {name: None for step in steps for name, _ in _numbers(step)}
    names = [*(name for name in FIRST if name in found), *sorted(found.keys() - set(FIRST))]
    text = io.StringIO()
    writer = csv.DictWriter(text, ("revision", *names), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for step in steps:
        revision = step.get("revision") or {}
        writer.writerow({**dict(_numbers(step)), "revision": revision.get("number")})
    return text.getvalue()


def scalars_of(steps: Sequence[Mapping[str, Any]]) -> Iterator[Scalar]:  # the gateway's JSON
    """Yield every number of every step, named as transformers' trainer names them to trackers."""
    for step in steps:
        for name, value in _numbers(step):
            if name not in _NO_METRICS:
                shown = f"eval/{name.removeprefix(_VALID)}" if name.startswith(_VALID) else f"train/{name}"
                yield Scalar(name=shown, step=step["step"], value=value, at=step.get("published_at"))


def _numbers(step: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a step; those of a nested object as ``outer_inner``."""
    for name, value in step.items():
        if isinstance(value, Mapping) and name != "revision":
            yield from ((f"{name}_{inner}", number) for inner, number in _numbers(value))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value
