"""The memory of an engine's step and of a trainer's pass, without the weights."""

from mint_common.dtypes import ITEM_BYTES
from services.standalone.core.model_shape import ModelShape
from services.trainer.core.microbatches import DEVICE_SHARE, fitting_tokens

_FLOAT_BYTES = ITEM_BYTES["float32"]
_LOGITS_COPIES = 5
"""Copies of the logits in a pass: the logits, their log-probabilities, and the gradients of both. Counted
with saved-tensor hooks and peak RSS of SmolLM2 in float32 and bfloat16, with and without recomputed
layers: 480 MiB where one is 96.
"""

_STEP_COPIES, _SAMPLER_COPIES = 2, 16
"""Copies in an engine's step: a layer's inputs and outputs; and the float32 logits through vLLM's sampler,
which sorts them. Fitted to the peak of SmolLM2's engine process on the CPU build of vLLM 0.32."""


def kept_token(shape: ModelShape, item: int) -> int:
    """Return the bytes per token that the backward pass stores: inputs and outputs of all linears.

    LoRA computes in float32, so the inputs of a narrower base are stored a second time.
    """
    read, written = shape.token_numbers
    return item * (read + written) + (_FLOAT_BYTES * read if item < _FLOAT_BYTES else 0)


def pass_bytes(shape: ModelShape, item: int, tokens: int, *, recomputed: bool) -> int:
    """Return the peak bytes of a micro-batch. ``recomputed``: all layers but one store only their input."""
    kept = kept_token(shape, item)
    if recomputed:
        kept = item * shape.layers * shape.hidden_size + kept // shape.layers
    return tokens * (kept + _LOGITS_COPIES * _FLOAT_BYTES * shape.vocab_size)


def wide_head_bytes(shape: ModelShape, item: int) -> int:
    """Return the bytes of the float32 copy of a narrower head, which a trainer uses for the logits."""
    return _FLOAT_BYTES * shape.vocab_size * shape.hidden_size if item < _FLOAT_BYTES else 0


def step_bytes(shape: ModelShape, *, item: int, tokens: int, sequences: int) -> int:
    """Return the peak bytes of an engine's step."""
    layer = _STEP_COPIES * item * shape.layer_values * tokens
    return layer + _SAMPLER_COPIES * _FLOAT_BYTES * shape.vocab_size * sequences


def microbatch_tokens(shape: ModelShape, item: int, *, free_bytes: int | None = None) -> int:
    """Return the trainer's default number of tokens per micro-batch."""
    return fitting_tokens(_taken_token(shape, item), free_bytes=free_bytes)


def recomputes(shape: ModelShape, item: int, *, context: int, free_bytes: int) -> bool:
    """Return whether a trainer on a GPU recomputes layers by default."""
    return context * _taken_token(shape, item) > DEVICE_SHARE * free_bytes


def _taken_token(shape: ModelShape, item: int) -> int:
    """Return the trainer's estimate of a token's activations, including all experts."""
    return item * sum((each.inputs + each.outputs) * each.count for each in shape.linears)
