"""Passes that clients ask for."""

from collections.abc import Sequence
from dataclasses import dataclass

from mint_common.training import Array, Pass, Passed
from services.trainer.adapters.lora.tensors import LoraTensors
from services.trainer.adapters.model.scoring import ScoringBase
from services.trainer.adapters.training.pass_sum import PassResult, PassWork
from services.trainer.adapters.training.passes import run_passes
from services.trainer.core.datum_lines import DatumLine
from services.trainer.core.losses.table import PASS_LOSSES
from services.trainer.core.refusals import NotFinite


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPass:
    """A pass and the policy that it is of. Passes of one policy have the same tensors."""

    lora: LoraTensors
    step: int
    work: Pass

    def planned(self) -> PassWork:
        """Return what is to be computed."""
        return PassWork(
            lora=self.lora,
            step=self.step,
            lines=[DatumLine(datum=datum) for datum in self.work.data],
            loss=PASS_LOSSES[self.work.loss],
            config=self.work.config,
            backward=self.work.backward,
        )


def run_client_passes(
    base: ScoringBase, passes: Sequence[ClientPass], *, max_tokens: int
) -> list[Passed | NotFinite]:
    """Compute passes, add gradients, and return the result of each. Passes of one policy are neighbours."""
    results = run_passes(base, [one.planned() for one in passes], max_tokens=max_tokens)
    return [
        result if isinstance(result, NotFinite) else _passed(one.work, result)
        for one, result in zip(passes, results, strict=True)
    ]


def _passed(work: Pass, result: PassResult) -> Passed:
    shapes = [datum.inputs["target_tokens"].shape for datum in work.data]
    tokens = sum(len(scores.logprobs) for scores in result.scores)
    return Passed(
        logprobs=tuple(
            Array(dtype="float32", shape=shape, data=scores.logprobs.tobytes())
            for shape, scores in zip(shapes, result.scores, strict=True)
        ),
        metrics={"loss:sum": result.loss, "tokens:sum": float(tokens), **result.measures},
    )
