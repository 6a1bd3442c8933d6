"""Steps of managed jobs as their logs ask for them: the passes of waves together, then the steps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mint_common.algorithms import Algorithms
from mint_common.ids import EventId, JobId, WaveId
from mint_common.records import Sample, WaveRecord
from mint_common.training import Passed, Result
from services.trainer.adapters.model.scoring import ScoringBase
from services.trainer.adapters.states.training_state import TrainingState
from services.trainer.adapters.training.optimizer import take_steps
from services.trainer.adapters.training.policy_passes import PolicyPass, run_policy_passes
from services.trainer.core.algorithms.algorithm import ManagedAlgorithms
from services.trainer.core.batch import Batch
from services.trainer.core.mismatch_rules import Mismatch
from services.trainer.core.refusals import NotFinite
from services.trainer.core.wave_batch import WaveBatch
from services.trainer.core.wave_operations import WaveExport, adam_step, export_metrics

MANAGED = ManagedAlgorithms(Algorithms())


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    """How to step: see `JobSpec`; ``mismatch`` is the trainer's own."""

    algorithm: str
    learning_rate: float
    kl_coefficient: float
    clip_norm: float
    mismatch: Mismatch = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A policy to step, on what, and how."""

    state: TrainingState
    batch: Batch
    settings: StepSettings


def masked(record: WaveRecord) -> WaveRecord:
    """Return a record of which the second token of an answer, and the last of a long one, is not trained."""
    groups = [replace(group, samples=tuple(map(_masked, group.samples))) for group in record.groups]
    return replace(record, groups=tuple(groups))


def _masked(sample: Sample) -> Sample:
    count = len(sample.tokens)
    trained = ((0, 1), (2, count - 1)) if count > 3 else ((0, 1),)
    return replace(sample, trained=trained, logprobs=())


def wave_batch(batch: Batch, settings: StepSettings) -> WaveBatch:
    """Return what the pass of a wave computes."""
    algorithm = MANAGED.named(settings.algorithm)
    config = algorithm.training.config(settings.kl_coefficient, settings.mismatch)
    return algorithm.wave_batch(batch, config)


def step_policies(
    base: ScoringBase, works: Sequence[Work], *, max_tokens: int
) -> list[dict[str, float] | NotFinite]:
    """Step each state in place; return what its revision is told to have, or why its wave is refused."""
    passes = [
        PolicyPass(lora=one.state.lora, step=one.state.step, work=wave_batch(one.batch, one.settings))
        for one in works
    ]
    results: list[Passed | NotFinite] = run_policy_passes(base, passes, max_tokens=max_tokens)
    found: list[list[Result] | NotFinite] = [one if isinstance(one, NotFinite) else [one] for one in results]
    due = [number for number, one in enumerate(found) if works[number].batch.rows and isinstance(one, list)]
    steps = [
        adam_step(learning_rate=works[n].settings.learning_rate, clip_norm=works[n].settings.clip_norm)
        for n in due
    ]
    for number, taken in zip(due, take_steps([works[n].state for n in due], steps), strict=True):
        before = found[number]
        assert isinstance(before, list)
        found[number] = taken if isinstance(taken, NotFinite) else [*before, taken]
    return [
        one if isinstance(one, NotFinite) else metrics_of(one, work.settings)
        for one, work in zip(found, works, strict=True)
    ]


def metrics_of(results: Sequence[Result], settings: StepSettings) -> dict[str, float]:
    """Return the metrics of a step, without what it took."""
    export = WaveExport(
        wave_id=WaveId("wave"),
        job_id=JobId("job"),
        cause=EventId("evt"),
        learning_rate=settings.learning_rate,
        measured=(),
    )
    metrics = export_metrics(export, results, export_seconds=0.0)
    del metrics["seconds"]
    return metrics
