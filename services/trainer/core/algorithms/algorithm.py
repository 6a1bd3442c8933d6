"""The trainer's side of a managed algorithm, and all algorithms of a stack."""

from collections.abc import Callable
from dataclasses import dataclass

from mint_common.algorithms import Algorithm, Algorithms, import_object
from mint_common.events import JobSpec, PolicyGradient
from mint_common.records import WaveRecord
from services.trainer.core.batch import Batch
from services.trainer.core.losses.loss import Config, Loss, TokenLoss
from services.trainer.core.mismatch_rules import Mismatch
from services.trainer.core.wave_batch import WaveBatch
from services.trainer.core.wave_operations import WavePass


def beta(pull: float, _mismatch: Mismatch) -> dict[str, float]:
    """Return a loss's numbers where the pull is its only one, ``beta``."""
    return {"beta": pull}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingAlgorithm:
    """A loss, and its training batch.

    ``config`` computes the loss's numbers from a job's pull to the base (`JobSpec.kl_coefficient`) and the
    trainer's `Mismatch`. ``build_pulled_batch`` replaces ``build_batch`` where the loss reads the
    base, to add rows that only such a term uses; None: they are the same.
    """

    loss: Loss
    build_batch: Callable[[WaveRecord], Batch]
    build_pulled_batch: Callable[[WaveRecord], Batch] | None = None
    config: Callable[[float, Mismatch], dict[str, float]] = lambda _pull, _mismatch: {}


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientTraining:
    """The training of algorithms with a `PolicyGradient`.

    ``build`` makes it for a job's gradient, whose answers have at most a number of tokens.
    """

    build: Callable[[PolicyGradient, int], TrainingAlgorithm]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedAlgorithm:
    """An algorithm: its description and its training."""

    described: Algorithm
    training: TrainingAlgorithm

    @property
    def _may_be_sampled(self) -> bool:
        return self.described.samples_rows or self.described.samples_tasks

    def needs_logprobs(self, record: WaveRecord) -> bool:
        """Return whether every sample of a record has to have log-probabilities."""
        has_some = any(sample.logprobs for group in record.groups for sample in group.samples)
        return self.described.corrects_sampler or (self._may_be_sampled and has_some)

    def pulls(self, config: Config) -> bool:
        """Return whether the base acts on every row."""
        loss = self.training.loss
        if not isinstance(loss, TokenLoss):
            return False
        return loss.reads_base(config) or (loss.rewards_kl is not None and bool(config["kl_coefficient"]))

    def build_batch(self, record: WaveRecord, *, pulls: bool = False) -> Batch:
        """Return the training batch; ``pulls``: the loss has a term for every row."""
        pulled = self.training.build_pulled_batch
        return pulled(record) if pulls and pulled is not None else self.training.build_batch(record)

    def wave_batch(
        self, batch: Batch, config: Config, *, backward: bool = True, is_file: bool = False
    ) -> WaveBatch:
        """Return the pass over a batch."""
        rows = (*batch.rows, *batch.probe)
        return WaveBatch(
            loss=self.training.loss,
            config=config,
            batch=batch,
            backward=backward,
            is_file=is_file,
            is_sampled=self._may_be_sampled and all(row.logprobs for row in rows),
        )


class ManagedAlgorithms:
    """The algorithms of a stack, imported. Raises SettingInvalid for one that cannot be."""

    def __init__(self, algorithms: Algorithms) -> None:
        self._described = algorithms
        self._fixed = {
            one.name: import_object(one.training, TrainingAlgorithm) for one in algorithms if not one.gradient
        }
        self._gradients = {
            one.name: import_object(one.training, GradientTraining) for one in algorithms if one.gradient
        }

    def of(self, job: JobSpec | WavePass) -> ManagedAlgorithm:
        """Return the algorithm of a job, or of a pass of its waves. Raises AlgorithmUnknown."""
        return self.named(job.algorithm, job.gradient, max_new_tokens=job.max_new_tokens)

    def named(
        self, name: str, gradient: PolicyGradient | None = None, *, max_new_tokens: int = 1
    ) -> ManagedAlgorithm:
        """Return an algorithm, by default with its own gradient. Raises AlgorithmUnknown.

        ``max_new_tokens`` is the most that an answer may have.
        """
        described = self._described.named(name)
        own = gradient or described.gradient
        if own is None or described.gradient is None:
            return ManagedAlgorithm(described=described, training=self._fixed[name])
        training = self._gradients[name].build(own, max_new_tokens)
        return ManagedAlgorithm(described=described, training=training)
