"""Passes that policies' logs ask for, those of clients and those of waves, computed as one batch."""

from collections.abc import Sequence
from dataclasses import dataclass

from mint_common.training import Array, Pass, Passed
from services.trainer.adapters.lora.tensors import LoraTensors
from services.trainer.adapters.model.scoring import ScoringBase
from services.trainer.adapters.training.pass_sum import PassResult, PassWork
from services.trainer.adapters.training.passes import pass_runs
from services.trainer.adapters.training.runs import Runs, complete
from services.trainer.adapters.training.wave_passes import WaveRows
from services.trainer.core.datum_lines import DatumLine
from services.trainer.core.losses.table import PASS_LOSSES
from services.trainer.core.refusals import NotFinite
from services.trainer.core.wave_batch import WaveBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyPass:
    """A pass and the policy that it is of. Passes of one policy have the same tensors."""

    lora: LoraTensors
    step: int
    work: Pass | WaveBatch


PassOutcome = Passed | NotFinite


def run_policy_passes(
    base: ScoringBase, passes: Sequence[PolicyPass], *, max_tokens: int
) -> list[PassOutcome]:
    """Compute passes, add gradients, and return the result of each. Passes of one policy are neighbours."""
    return complete(policy_pass_runs(base, passes, max_tokens=max_tokens))


def policy_pass_runs(
    base: ScoringBase, passes: Sequence[PolicyPass], *, max_tokens: int
) -> Runs[list[PassOutcome]]:
    """Do so in runs: see `pass_runs`. What waves need scored before comes first, all of it together."""
    max_length = min(max_tokens, base.rules.max_shared)
    running = [_running(one, max_length=max_length) for one in passes]
    waves = [one for one in running if isinstance(one, WaveRows)]
    compared = yield from pass_runs(base, [one.comparison() for one in waves], max_tokens=max_tokens)
    for one, scored in zip(waves, compared, strict=True):
        one.compare(scored)
    results = yield from pass_runs(base, [one.training() for one in running], max_tokens=max_tokens)
    return [
        one.passed(result) if isinstance(result, PassResult) else result
        for one, result in zip(running, results, strict=True)
    ]


def _running(one: PolicyPass, *, max_length: int) -> "WaveRows | _ClientData":
    if isinstance(one.work, WaveBatch):
        return WaveRows(one.lora, one.work, step=one.step, max_length=max_length)
    return _ClientData(one.lora, one.work, step=one.step)


class _ClientData:
    """A client's pass under way."""

    def __init__(self, lora: LoraTensors, work: Pass, *, step: int) -> None:
        self._lora = lora
        self._work = work
        self._step = step

    def training(self) -> PassWork:
        """Return the pass to compute."""
        loss = PASS_LOSSES[self._work.loss]
        return PassWork(
            lora=self._lora,
            step=self._step,
            lines=[DatumLine(datum=datum) for datum in self._work.data],
            loss=loss,
            config=self._work.config,
            backward=self._work.backward,
            is_sampled="logprobs" in loss.needed,
        )

    def passed(self, result: PassResult) -> Passed:
        """Return the client's result."""
        shapes = [datum.inputs["target_tokens"].shape for datum in self._work.data]
        tokens = sum(len(scores.logprobs) for scores in result.scores)
        return Passed(
            logprobs=tuple(
                Array(dtype="float32", shape=shape, data=scores.logprobs.tobytes())
                for shape, scores in zip(shapes, result.scores, strict=True)
            ),
            metrics={"loss:sum": result.loss, "tokens:sum": float(tokens), **result.measures},
        )
