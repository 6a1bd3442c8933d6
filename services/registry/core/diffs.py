"""Differences of two revisions in their records and manifests."""

from collections.abc import Mapping, Sequence

from mint_common.adapters_format import Manifest
from mint_common.catalog import ConfigChange, EvaluationRecord, NumberChange, RevisionRecord

_CONFIG = ("layout", "rank", "targets", "dtype", "step", "parent", "base_digest")


def changed_config(before: Manifest, after: Manifest) -> tuple[ConfigChange, ...]:
    """Return the fields in which two manifests differ."""
    pairs = [(name, _shown(getattr(before, name)), _shown(getattr(after, name))) for name in _CONFIG]
    return tuple(
        ConfigChange(field=name, before=one, after=other) for name, one, other in pairs if one != other
    )


def changed_numbers(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[NumberChange, ...]:
    """Return all numbers of either by name; None where one lacks the number."""
    return tuple(
        NumberChange(name=name, before=before.get(name), after=after.get(name))
        for name in sorted(before.keys() | after.keys())
    )


def training_numbers(revision: RevisionRecord) -> Mapping[str, float]:
    """Return the metrics of the step that made a revision, and the ``reward`` of its own samples if known."""
    return revision.metrics if revision.reward is None else {**revision.metrics, "reward": revision.reward}


def scores_by_name(scores: Sequence[EvaluationRecord]) -> Mapping[str, float]:
    """Return scores under ``<suite>/<metric>``."""
    return {f"{score.suite}/{score.metric}": score.value for score in scores}


def _shown(value: object) -> str | None:
    if value is None:
        return None
    return ", ".join(value) if isinstance(value, tuple) else str(value)
