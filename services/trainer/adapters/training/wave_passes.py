"""The pass of a wave: its rows, compared where its loss asks for it, then trained on.

A pair's loss joins two rows, so pairs are scored first and weighed by what that came to; a batch without rows
is compared with its sampler only.
"""

from collections.abc import Sequence

from mint_common.training import Passed
from services.trainer.adapters.lora.tensors import LoraTensors
from services.trainer.adapters.training.pass_sum import PassResult, PassWork
from services.trainer.adapters.training.preferences import weigh_pairs
from services.trainer.core.algorithms import ALGORITHMS, WaveBatch
from services.trainer.core.batch import Row
from services.trainer.core.losses.cross_entropy import CROSS_ENTROPY
from services.trainer.core.losses.loss import PairLoss, TokenLoss
from services.trainer.core.packing import PackedSequence, pack_rows
from services.trainer.core.refusals import NotFinite


class WaveRows:
    """A wave's pass under way. ``max_length`` is that of a line of several rows, 0: a row a line."""

    def __init__(self, lora: LoraTensors, work: WaveBatch, *, step: int, max_length: int) -> None:
        self._lora = lora
        self._step = step
        self._work = work
        self._rows: Sequence[Row] = work.batch.rows
        self._max_length = max_length
        self._algorithm = ALGORITHMS[work.algorithm]
        loss = self._algorithm.loss
        self._pairs = loss if isinstance(loss, PairLoss) and self._rows else None
        self._compared = self._lines(self._rows if self._pairs else work.batch.probe)
        self._found: dict[str, float] = {}
        self._measures: dict[str, float] = {}
        self._sampler_kl: float | None = None

    def comparison(self) -> PassWork:
        """Return what is scored before: pairs, or the probe of a batch without rows."""
        return PassWork(
            lora=self._lora,
            step=self._step,
            lines=self._compared,
            loss=None,
            backward=False,
            reads_base=self._pairs is not None,
            is_sampled=self._work.is_sampled,
        )

    def compare(self, scored: PassResult | NotFinite) -> None:
        """Note what was scored, and weigh pairs by it."""
        assert isinstance(scored, PassResult), "without a loss nothing is refused"
        self._measures.update(scored.measures)
        self._sampler_kl = scored.sampler_kl
        if self._pairs is not None:
            self._rows, self._found = weigh_pairs(
                self._pairs, self._work.config, self._rows, self._compared, scored
            )

    def training(self) -> PassWork:
        """Return the pass that gives the gradient."""
        loss = self._algorithm.loss
        token_loss = loss if isinstance(loss, TokenLoss) else CROSS_ENTROPY
        is_mean = loss.aggregation == "token_mean"
        return PassWork(
            lora=self._lora,
            step=self._step,
            lines=self._lines(self._rows),
            loss=token_loss,
            config=self._work.config,
            divisor=float(max(1, self._work.batch.total_tokens)) if is_mean else 1.0,
            reads_base=token_loss.reads_base(self._work.config),
            is_sampled="logprobs" in token_loss.needed,
        )

    def passed(self, result: PassResult) -> Passed:
        """Return what is told of the pass. Its log-probabilities are nobody's to read.

        ``kl`` is there only if the loss has that term, ``ratio_max_error`` only where a sampler answered, the
        routes' metrics only where it recorded them, ``distrusted_tokens`` only with a band.
        """
        for name, value in result.measures.items():
            self._measures[name] = max(value, self._measures.get(name, value))
        measures = dict(self._measures)
        ratio_error = measures.pop("ratio_error:max", 0.0)
        routed, unrouted, off_route = (
            measures.pop(f"{name}:sum", 0.0) for name in ("routed", "unrouted", "off_route")
        )
        batch, found = self._work.batch, dict(self._found)
        metrics = {
            "loss:mean": found.pop("loss:mean") if self._pairs else result.loss,
            "reward_mean:mean": batch.reward_mean,
            "skipped_groups:sum": float(batch.skipped_groups),
            "tokens:sum": float(batch.total_tokens),
            "trained_tokens:sum": float(sum(row.targets for row in batch.rows)),
            **found,
        }
        if self._work.is_sampled:
            metrics["ratio_max_error:max"] = ratio_error
            found_kl = (result.sampler_kl, self._sampler_kl)
            metrics["sampler_kl:mean"] = next((kl for kl in found_kl if kl is not None), 0.0)
        metrics.update(measures)
        if routed or unrouted:
            metrics["out_of_route_ratio:mean"] = off_route / max(1.0, routed)
            metrics["unrouted_tokens:sum"] = unrouted
        return Passed(logprobs=(), metrics=metrics)

    def _lines(self, rows: Sequence[Row]) -> list[PackedSequence]:
        return sorted(pack_rows(rows, policy=0, max_length=self._max_length), key=lambda line: -line.length)
