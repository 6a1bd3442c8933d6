"""The memory of an engine's step and of a trainer's pass, without the weights."""

from mint_common.dtypes import ITEM_BYTES
from services.standalone.core.model_shape import ModelShape
from services.trainer.core.microbatches import fitting_targets

_FLOAT_BYTES = ITEM_BYTES["float32"]
_LOGITS_COPIES = 5
"""Copies of the logits in a pass: the logits, their log-probabilities, and the gradients of both. Counted
with saved-tensor hooks and peak RSS of SmolLM2 in float32 and bfloat16, with and without recomputed
layers: 480 MiB where one is 96.
"""

_STEP_COPIES, _SAMPLER_COPIES = 2, 16
"""Copies in an engine's step: a layer's inputs and outputs; and the float32 logits through vLLM's sampler,
which sorts them. Fitted to the peak of SmolLM2's engine process on the CPU build of vLLM 0.32."""


def pass_bytes(
    shape: ModelShape, item: int, tokens: int, *, recomputed: bool, free_bytes: int | None = None
) -> int:
    """Return the peak bytes of a micro-batch; ``free_bytes`` are a GPU's, None: on the CPU.

    Logits exist for as many targets at a time as the trainer's chunks have.
    """
    kept = shape.token_numbers.kept_bytes(item, recomputed=recomputed)
    targets = min(tokens, fitting_targets(shape.vocab_size, free_bytes=free_bytes))
    return tokens * kept + targets * _LOGITS_COPIES * _FLOAT_BYTES * shape.vocab_size


def wide_head_bytes(shape: ModelShape, item: int) -> int:
    """Return the bytes of the float32 copy of a narrower head, which a trainer uses for the logits."""
    return _FLOAT_BYTES * shape.vocab_size * shape.hidden_size if item < _FLOAT_BYTES else 0


def step_bytes(shape: ModelShape, *, item: int, tokens: int, sequences: int) -> int:
    """Return the peak bytes of an engine's step."""
    layer = _STEP_COPIES * item * shape.layer_values * tokens
    return layer + _SAMPLER_COPIES * _FLOAT_BYTES * shape.vocab_size * sequences
