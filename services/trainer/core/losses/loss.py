"""A loss: its formula, its inputs, and its aggregation over a step.

T = target tokens, N = wanted answers, M = unwanted answers, K = mismatched answers.
"""
# ruff: noqa: N815  # tensors carry their shape in their name

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mint_common.events.policy_gradient import AdvantageRule

Aggregation = Literal["sum", "token_mean", "sequence_mean", "constant", "pair_mean", "answer_mean"]
"""Divisor of a managed step's sum: none, the trained tokens of its wave, its episodes (whose tokens have
weights then), its episodes times the most tokens that one may have, its pairs, or its answers."""

Config = Mapping[str, float]
_NONE = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceInputs:
    """One sequence's inputs by name, float32 and flat, a number for each of its ``targets``."""

    targets: int
    arrays: Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenInputs:
    """Target tokens of some sequences, one after another, float32.

    ``base_T`` are the base's log-probabilities, if the loss requests them; ``routed_T`` is 0 for
    tokens whose recorded route cannot be replayed, None where no routes were recorded.
    """

    logprobs_T: Tensor
    sequences: Sequence[SequenceInputs]
    config: Config
    base_T: Tensor | None = None
    routed_T: Tensor | None = None

    def needed(self, name: str) -> Tensor:
        """Return an input that every sequence has."""
        return self._beside(np.concatenate([_NONE, *(one.arrays[name] for one in self.sequences)]))

    def optional(self, name: str, *, missing: float) -> Tensor | None:
        """Return an input, with a value where a sequence lacks it, None if none of them has it."""
        if not any(name in one.arrays for one in self.sequences):
            return None
        filled = [
            one.arrays[name] if name in one.arrays else np.full(one.targets, missing, np.float32)
            for one in self.sequences
        ]
        return self._beside(np.concatenate(filled))

    def numbers_T(self) -> Tensor:  # noqa: N802  # as above
        """Return the number of the sequence of each token, int64."""
        counts = torch.tensor([one.targets for one in self.sequences], dtype=torch.int64)
        return torch.repeat_interleave(counts).to(self.logprobs_T.device)

    def _beside(self, values: npt.NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values).to(self.logprobs_T.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Description of every loss."""

    aggregation: Aggregation = "sum"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLoss(Loss):
    """A sum over tokens, whose terms may depend on their sequence.

    ``needed`` and ``optional`` are its inputs besides the targets, the ``_config`` ones its numbers.
    ``measures`` are further numbers, named ``name:reduction``: ``sum``, or ``mean`` for those divided like
    the loss. ``is_wide``: positions may have several targets. With ``rewards_kl`` the KL to the base acts on
    rewards, from which advantages are computed by this rule before the pass.
    """

    formula: Callable[[TokenInputs], Tensor]
    needed: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    needed_config: tuple[str, ...] = ()
    optional_config: tuple[str, ...] = ()
    measures: Callable[[TokenInputs], dict[str, float]] = lambda _tokens: {}
    reads_base: Callable[[Config], bool] = lambda _config: False
    is_wide: bool = False
    rewards_kl: AdvantageRule | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Log-probabilities of answers under the policy minus those under the base, summed over tokens.

    Answers of a pair have one number. The ``mismatched`` are answers to other prompts, for losses that use
    them.
    """

    wanted_N: Tensor
    unwanted_M: Tensor
    mismatched_K: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceLoss(Loss):
    """A sum over pairs of a better and a worse answer, or over answers that are wanted or not."""

    formula: Callable[[Comparison, Config], Tensor]
    measures: Callable[[Comparison, Config], dict[str, float]]
