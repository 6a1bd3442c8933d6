"""The pass of a managed job's wave."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mint_common.ids import WaveId
from mint_common.records import WaveLogprobs
from mint_common.training import Passed
from services.trainer.core.batch import Batch, SamplePlace
from services.trainer.core.losses.loss import Config, Loss

VALIDATION_METRICS: Mapping[str, str] = {
    "loss:mean": "valid_loss:mean",
    "mean_token_accuracy:mean": "valid_mean_token_accuracy:mean",
    "preference_margin:mean": "valid_reward_margin:mean",
    "preference_accuracy:mean": "valid_reward_accuracy:mean",
}
"""The metrics of a pass that only measures, by the names that a training pass has for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveBatch:
    """A loss over the rows of a record; ``config`` are the loss's numbers.

    Without ``backward`` the rows are measured only. ``is_file``: they are a file's, answers included; then
    the pass measures a mean token accuracy, the share of the trained tokens of the better answers that the
    policy finds likeliest. ``is_sampled``: the rows have their sampler's log-probabilities, which are
    compared with the policy's. ``is_later``: a step of the same wave is taken before it.
    """

    loss: Loss
    config: Config
    batch: Batch
    backward: bool = True
    is_file: bool = False
    is_sampled: bool
    is_later: bool = False

    @property
    def adds_gradient(self) -> bool:
        """Return whether the pass changes the policy's gradient."""
        return self.backward and bool(self.batch.rows)

    @property
    def divisor(self) -> float:
        """Return what the sum over the tokens is divided by, whatever lines a pass computes together."""
        batch = self.batch
        match self.loss.aggregation:
            case "token_mean":
                return float(max(1, batch.total_tokens))
            case "sequence_mean":
                return float(max(1, batch.episodes))
            case "constant":
                return float(max(1, batch.episodes) * batch.max_new_tokens)
            case _:
                return 1.0

    @property
    def tokens(self) -> int:
        """Return how many tokens the model reads."""
        rows = self.batch.rows or self.batch.probe
        return sum(row.length for row in (*rows, *self.batch.mismatched))


class WavePassed(Passed, frozen=True, tag="passed"):
    """The result of a wave's pass while it is in memory; it is committed as a `Passed`.

    ``compared`` are the policy's log-probabilities of sampled rows, as a `WaveLogprobs` has them.
    """

    compared: Mapping[SamplePlace, bytes] = MappingProxyType({})

    def committed(self) -> Passed:
        """Return the part that is stored."""
        return Passed(logprobs=self.logprobs, metrics=self.metrics)


def wave_logprobs(wave_id: WaveId, passes: Iterable[Mapping[SamplePlace, bytes]]) -> WaveLogprobs | None:
    """Return the log-probabilities of a wave, given those of its passes in order; the first of a sample hold.

    None if no sample was compared.
    """
    compared: dict[SamplePlace, bytes] = {}
    for found in passes:
        compared = {**found, **compared}
    if not compared:
        return None
    groups: list[list[bytes]] = [[] for _ in range(1 + max(group for group, _ in compared))]
    for (group, sample), logprobs in compared.items():
        own = groups[group]
        own += [b""] * (sample + 1 - len(own))
        own[sample] = logprobs
    return WaveLogprobs(wave_id=wave_id, groups=tuple(map(tuple, groups)))
