"""Clients' data as lines: a datum of a pass, and a completion after a prompt of a distillation."""

import math
from dataclasses import dataclass

import numpy as np

from mint_common.training import Array, Datum
from services.trainer.core.lines import Ints, LineTokens
from services.trainer.core.losses.loss import SequenceInputs


@dataclass(frozen=True, slots=True, kw_only=True)
class DatumLine:
    """A datum, of which every position is scored."""

    datum: Datum
    policy: int = 0

    @property
    def length(self) -> int:
        """Return the number of tokens that the model reads."""
        return len(self.datum.tokens) // 4

    @property
    def targets(self) -> int:
        """Return the number of positions that the loss falls on."""
        return self.length

    @property
    def width(self) -> int:
        """Return the targets of a position, 0 for one without a dimension of its own."""
        shape = self.datum.inputs["target_tokens"].shape
        return shape[1] if len(shape) > 1 else 0

    def sequences(self) -> list[SequenceInputs]:
        """Return the loss's inputs of the datum."""
        inputs = self.datum.inputs
        arrays = {name: floats_of(array) for name, array in inputs.items() if name != "target_tokens"}
        return [SequenceInputs(targets=math.prod(inputs["target_tokens"].shape), arrays=arrays)]

    def read(self) -> LineTokens:
        """Return the line as numbers."""
        targets = self.datum.inputs["target_tokens"]
        return LineTokens(
            policy=self.policy,
            token_L=np.frombuffer(self.datum.tokens, "<i4").astype(np.int64),
            where_T=np.arange(self.length),
            targets=np.frombuffer(targets.data, "<i8").reshape(targets.shape),
            width=self.width,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionLine:
    """Tokens after a prompt; at each of them the whole vocabulary is scored."""

    prompt: bytes
    tokens: bytes
    vocabulary: int
    policy: int = 0

    @property
    def length(self) -> int:
        """Return the number of tokens that the model reads: the last one is only predicted."""
        return len(self.prompt) // 4 + self.targets - 1

    @property
    def targets(self) -> int:
        """Return the number of positions that the loss falls on."""
        return len(self.tokens) // 8

    def read(self) -> LineTokens:
        """Return the line as numbers."""
        prompt = np.frombuffer(self.prompt, "<i4").astype(np.int64)
        completion: Ints = np.frombuffer(self.tokens, "<i8")
        return LineTokens(
            policy=self.policy,
            token_L=np.concatenate([prompt, completion[:-1]]),
            where_T=np.arange(self.length - self.targets, self.length),
            targets=None,
            width=self.vocabulary,
        )


def floats_of(array: Array) -> np.ndarray:
    """Return an array's values, flat, as float32."""
    return np.frombuffer(array.data, "<f4" if array.dtype == "float32" else "<i8").astype("<f4", copy=False)
