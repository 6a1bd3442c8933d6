"""The pass of a wave: its rows, compared where its loss asks for it, then trained on, or only measured.

A loss of preferences joins rows, so answers are scored first and weighed by what that came to; a batch
without rows is compared with its sampler only.
"""

import math
from collections.abc import Sequence

from mint_common.events.policy_gradient import AdvantageRule
from mint_common.training import Passed
from services.trainer.adapters.lora.tensors import LoraTensors
from services.trainer.adapters.training.pass_sum import PassResult, PassWork
from services.trainer.adapters.training.preferences import MovedAnswer, moved_answers, weigh_answers
from services.trainer.core.batch import Row, SamplePlace, rewarded_rows
from services.trainer.core.losses.cross_entropy import CROSS_ENTROPY
from services.trainer.core.losses.loss import PreferenceLoss, TokenLoss
from services.trainer.core.losses.tokens import RatioSums
from services.trainer.core.packing import PackedSequence, behind_shared_beginning, pack_rows
from services.trainer.core.refusals import NotFinite
from services.trainer.core.wave_batch import VALIDATION_METRICS, WaveBatch, WavePassed


class WaveRows:
    """A wave's pass under way. ``max_length`` is that of a line of several rows, 0: a row a line."""

    def __init__(self, lora: LoraTensors, work: WaveBatch, *, step: int, max_length: int) -> None:
        self._lora = lora
        self._step = step
        self._work = work
        self._rows: Sequence[Row] = work.batch.rows
        self._max_length = max_length
        loss = work.loss
        answers = (*self._rows, *work.batch.mismatched)
        self._preferences = loss if isinstance(loss, PreferenceLoss) and answers else None
        has_kl = bool(self._rows and work.config.get("kl_coefficient"))
        self._kl_rule = loss.rewards_kl if has_kl and isinstance(loss, TokenLoss) else None
        compares_all = self._preferences is not None or self._kl_rule is not None
        self._compared = self._lines(answers if compares_all else work.batch.probe)
        self._trained: list[PackedSequence] = []
        self._answers: list[MovedAnswer] = []
        self._found: dict[str, float] = {}
        self._measures: dict[str, float] = {}
        self._ratios = RatioSums()
        self._logprobs: dict[SamplePlace, bytes] = {}

    def comparison(self) -> PassWork:
        """Return the scores to compute first: compared answers, or the probe of a batch without rows."""
        return PassWork(
            lora=self._lora,
            step=self._step,
            lines=self._compared,
            loss=None,
            backward=False,
            reads_base=self._preferences is not None or self._kl_rule is not None,
            is_sampled=self._work.is_sampled,
            counts_hits=self._work.is_file,
        )

    def compare(self, scored: PassResult | NotFinite) -> None:
        """Store the scores, and weigh answers by them."""
        assert isinstance(scored, PassResult), "without a loss nothing is refused"
        self._measures.update(scored.measures)
        self._ratios = scored.ratios
        self._logprobs = _logprobs_of(self._compared, scored)
        if self._kl_rule is not None:
            self._rows, self._found = self._rewarded(self._kl_rule, scored)
        if self._preferences is not None:
            self._answers = list(moved_answers(self._compared, scored))
            if self._work.backward:
                self._rows, self._found = weigh_answers(
                    self._preferences, self._work.config, self._rows, self._answers
                )

    def training(self) -> PassWork:
        """Return the pass that gives the gradient; answers that are only measured have been scored."""
        loss = self._work.loss
        token_loss = loss if isinstance(loss, TokenLoss) else CROSS_ENTROPY
        self._trained = [] if self._preferences and not self._work.backward else self._lines(self._rows)
        return PassWork(
            lora=self._lora,
            step=self._step,
            lines=self._trained,
            loss=token_loss,
            config=self._work.config,
            divisor=self._work.divisor,
            reads_base=token_loss.reads_base(self._work.config),
            is_sampled="logprobs" in token_loss.needed,
            counts_hits=self._work.is_file and self._preferences is None,
            backward=self._work.backward,
        )

    def passed(self, result: PassResult) -> Passed | NotFinite:
        """Return the metrics of the pass, and the log-probabilities of its sampled rows.

        ``kl`` is there only with a coefficient, ``ratio_max_error`` and others of the ratios only for sampled
        answers, ``masked_share`` only for policy gradients: the share of the trained tokens on which the
        loss's bound acts. The routes' metrics are there only for recorded routes, ``distrusted_tokens`` only
        with a band.
        """
        for name, value in result.measures.items():
            self._measures[name] = max(value, self._measures.get(name, value))
        measures = dict(self._measures)
        ratio_error, bounded = measures.pop("ratio_error:max", 0.0), measures.pop("bounded:sum", None)
        routed, unrouted, off_route, hits, judged = (
            measures.pop(f"{name}:sum", 0.0) for name in ("routed", "unrouted", "off_route", "hits", "judged")
        )
        accuracy = {"mean_token_accuracy:mean": hits / judged} if judged else {}
        if not self._work.backward:
            return self._measured(result.loss, accuracy)
        batch, found = self._work.batch, dict(self._found)
        metrics = {
            "loss:mean": found.pop("loss:mean") if self._preferences else result.loss,
            "reward_mean:mean": batch.reward_mean,
            "skipped_groups:sum": float(batch.skipped_groups),
            "tokens:sum": float(batch.total_tokens),
            "trained_tokens:sum": float(sum(row.targets for row in batch.rows)),
            **found,
        }
        if self._work.is_sampled:
            metrics["ratio_max_error:max"] = ratio_error
            metrics |= _ratio_metrics(result.ratios if result.ratios.tokens else self._ratios)
        if bounded is not None:
            metrics["masked_share:mean"] = bounded / max(1, result.ratios.tokens)
        metrics.update(measures)
        if routed or unrouted:
            metrics["out_of_route_ratio:mean"] = off_route / max(1.0, routed)
            metrics["unrouted_tokens:sum"] = unrouted
        compared = self._logprobs | _logprobs_of(self._trained, result)
        return WavePassed(logprobs=(), metrics=metrics | accuracy, compared=compared)

    def _rewarded(self, rule: AdvantageRule, scored: PassResult) -> tuple[list[Row], dict[str, float]]:
        """Return the rows with advantages of rewards less the KL to the base, and that KL, a token."""
        moved = [(row, float(kl)) for row, kl in moved_answers(self._compared, scored)]
        coefficient = self._work.config["kl_coefficient"]
        kl = sum(of_row for _, of_row in moved) / max(1, self._work.batch.total_tokens)
        return rewarded_rows(moved, coefficient=coefficient, rule=rule), {"kl:mean": kl}

    def _measured(self, loss: float, accuracy: dict[str, float]) -> Passed | NotFinite:
        """Return the metrics of a measuring pass: `VALIDATION_METRICS`.

        It is refused if the loss is not finite.
        """
        found = {"loss:mean": loss}
        if self._preferences is not None:
            _, found = weigh_answers(self._preferences, self._work.config, self._rows, self._answers)
        mean = found["loss:mean"]
        if not math.isfinite(mean):
            return NotFinite(what="loss", step=self._step + 1, value=mean, kept=self._step)
        found |= accuracy
        told = {own: found[name] for name, own in VALIDATION_METRICS.items() if name in found}
        return Passed(logprobs=(), metrics=told)

    def _lines(self, rows: Sequence[Row]) -> list[PackedSequence]:
        if self._work.is_file and self._max_length:
            rows = behind_shared_beginning(rows)
        return sorted(pack_rows(rows, policy=0, max_length=self._max_length), key=lambda line: -line.length)


def _logprobs_of(lines: Sequence[PackedSequence], scored: PassResult) -> dict[SamplePlace, bytes]:
    """Return the log-probabilities of the lines' sampled rows, as a `WaveLogprobs` has them."""
    found: dict[SamplePlace, bytes] = {}
    for line, scores in zip(lines, scored.scores, strict=True):
        begin = 0
        for row in line.rows:
            if row.place is not None:
                own = scores.logprobs[begin : begin + row.targets]
                found[row.place] = own.astype("<f4", copy=False).tobytes()
            begin += row.targets
    return found


def _ratio_metrics(ratios: RatioSums) -> dict[str, float]:
    return {
        "sampler_kl:mean": ratios.sampler_kl,
        "ratio_max:max": ratios.highest,
        "effective_sample_share:mean": ratios.effective_share,
    }
