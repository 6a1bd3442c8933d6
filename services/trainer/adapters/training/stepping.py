"""Steps of managed jobs, of several policies at once: passes, then one optimizer step.

Invariants: a policy's gradient comes of its own rows only; what is wrong with one policy is that policy's
result, and the others' steps are as if it had not been there (tests/unit/trainer/test_batched_steps.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mint_common.training import Step
from services.trainer.adapters.model.scoring import ScoringBase
from services.trainer.adapters.states.training_state import BETAS, EPSILON, TrainingState
from services.trainer.adapters.training.optimizer import take_steps
from services.trainer.adapters.training.pass_sum import PassResult, PassWork
from services.trainer.adapters.training.passes import run_passes
from services.trainer.adapters.training.preferences import weigh_pairs
from services.trainer.core.algorithms import ALGORITHMS
from services.trainer.core.batch import Batch, Row
from services.trainer.core.losses.cross_entropy import CROSS_ENTROPY
from services.trainer.core.losses.loss import PairLoss, TokenLoss
from services.trainer.core.packing import PackedSequence, pack_rows
from services.trainer.core.refusals import NotFinite
from services.trainer.ports.policies import StepSettings, StepTaken


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A policy to step, on what, and how."""

    state: TrainingState
    batch: Batch
    settings: StepSettings


def step_policies(
    base: ScoringBase, works: Sequence[Work], *, max_tokens: int
) -> list[dict[str, float] | NotFinite]:
    """Step each state in place and return its metrics, or why its step is refused and the state spoilt.

    A batch without rows changes nothing. ``kl`` is there only if the loss has that term, ``ratio_max_error``
    only where a sampler answered, the routes' metrics only where it recorded them, ``distrusted_tokens`` only
    with a band.
    """
    steps = [_Step(work, max_length=max_tokens if base.shares_prompts else 0) for work in works]
    compared = run_passes(base, [step.comparison() for step in steps], max_tokens=max_tokens)
    for step, scored in zip(steps, compared, strict=True):
        step.compare(scored)
    passed = run_passes(base, [step.training() for step in steps], max_tokens=max_tokens)
    for step, result in zip(steps, passed, strict=True):
        step.train(result)
    due = [step for step in steps if step.rows and not step.refusal]
    taken = take_steps([step.work.state for step in due], [step.adam for step in due])
    for step, one in zip(due, taken, strict=True):
        step.finish(one)
    return [step.refusal or step.metrics() for step in steps]


class _Step:
    """A step under way: what its passes have come to, and why it is refused, if it is."""

    def __init__(self, work: Work, *, max_length: int) -> None:
        self.work = work
        self.rows: Sequence[Row] = work.batch.rows
        self.refusal: NotFinite | None = None
        self._max_length = max_length
        self._algorithm = ALGORITHMS[work.settings.algorithm]
        self._config = self._algorithm.config(work.settings.kl_coefficient, work.settings.mismatch)
        loss = self._algorithm.loss
        self._pairs = loss if isinstance(loss, PairLoss) and self.rows else None
        self._compared = self._lines(self.rows if self._pairs else work.batch.probe)
        self._found = {"loss": 0.0, "grad_norm": 0.0}
        self._measures: dict[str, float] = {}

    @property
    def adam(self) -> Step:
        """Return the optimizer step."""
        return Step(
            learning_rate=self.work.settings.learning_rate,
            beta1=BETAS[0],
            beta2=BETAS[1],
            eps=EPSILON,
            weight_decay=0.0,
            clip_norm=self.work.settings.clip_norm,
        )

    def comparison(self) -> PassWork:
        """Return what is scored before the step: pairs, or the probe of a batch without rows."""
        return PassWork(
            lora=self.work.state.lora,
            step=self.work.state.step,
            lines=self._compared,
            loss=None,
            backward=False,
            reads_base=self._pairs is not None,
        )

    def compare(self, scored: PassResult | NotFinite) -> None:
        """Note what was scored, and weigh pairs by it."""
        assert isinstance(scored, PassResult), "without a loss nothing is refused"
        self._measures.update(scored.measures)
        if self._pairs is not None:
            self.rows, metrics = weigh_pairs(self._pairs, self._config, self.rows, self._compared, scored)
            self._found.update(metrics)

    def training(self) -> PassWork:
        """Return the pass that gives the gradient."""
        loss = self._algorithm.loss
        token_loss = loss if isinstance(loss, TokenLoss) else CROSS_ENTROPY
        is_mean = loss.aggregation == "token_mean"
        return PassWork(
            lora=self.work.state.lora,
            step=self.work.state.step,
            lines=self._lines(self.rows),
            loss=token_loss,
            config=self._config,
            divisor=float(max(1, self.work.batch.total_tokens)) if is_mean else 1.0,
            reads_base=token_loss.reads_base(self._config),
        )

    def train(self, passed: PassResult | NotFinite) -> None:
        """Note what the pass came to."""
        if isinstance(passed, NotFinite):
            self.refusal = passed
            return
        if self._pairs is None:
            self._found["loss"] = passed.loss
        for name, value in passed.measures.items():
            self._measures[name] = max(value, self._measures.get(name, value))

    def finish(self, taken: StepTaken | NotFinite) -> None:
        """Note what the optimizer step came to."""
        if isinstance(taken, NotFinite):
            self.refusal = taken
        else:
            self._found["grad_norm"] = taken.metrics["grad_norm:mean"]

    def metrics(self) -> dict[str, float]:
        """Return the metrics of the step."""
        batch = self.work.batch
        measures = {name.partition(":")[0]: value for name, value in self._measures.items()}
        ratio_error = measures.pop("ratio_error")
        routed, unrouted, off_route = (
            measures.pop(name, 0.0) for name in ("routed", "unrouted", "off_route")
        )
        loss, grad_norm = self._found.pop("loss"), self._found.pop("grad_norm")
        metrics = {
            "loss": loss,
            "grad_norm": grad_norm,
            "learning_rate": self.work.settings.learning_rate,
            "reward_mean": batch.reward_mean,
            "skipped_groups": float(batch.skipped_groups),
            "tokens": float(batch.total_tokens),
            "trained_tokens": float(sum(len(row.tokens) for row in batch.rows)),
            **self._found,
        }
        if self._algorithm.is_sampled:
            metrics["ratio_max_error"] = ratio_error
        metrics.update(measures)
        if routed or unrouted:
            metrics["out_of_route_ratio"] = off_route / max(1.0, routed)
            metrics["unrouted_tokens"] = unrouted
        return metrics

    def _lines(self, rows: Sequence[Row]) -> list[PackedSequence]:
        return sorted(pack_rows(rows, policy=0, max_length=self._max_length), key=lambda line: -line.length)
