"""What a step of an engine, and a pass of a trainer, take of memory beside the weights."""

from mint_common.dtypes import ITEM_BYTES
from services.standalone.core.model_shape import ModelShape
from services.trainer.core.microbatches import DEVICE_SHARE, fitting_tokens

_FLOAT_BYTES = ITEM_BYTES["float32"]
_LOGITS_COPIES = 5
"""Copies of the logits in a pass: themselves, their log-probabilities, and gradients of both. Counted with
saved-tensor hooks and peak RSS of SmolLM2 in float32 and bfloat16, with and without recomputed layers: 480
MiB where one is 96."""

_STEP_COPIES, _SAMPLER_COPIES = 2, 16
"""Copies in an engine's step: a layer's inputs and outputs; and the float32 logits through vLLM's sampler,
which sorts them. Fitted to the peak of SmolLM2's engine process on the CPU build of vLLM 0.32."""


def kept_token(shape: ModelShape, item: int) -> int:
    """Return the bytes that the backward pass keeps of a token: what all linears read and write.

    LoRA computes in float32, so a narrower base's inputs are kept a second time.
    """
    read, written = shape.token_numbers
    return item * (read + written) + (_FLOAT_BYTES * read if item < _FLOAT_BYTES else 0)


def pass_bytes(shape: ModelShape, item: int, tokens: int, *, recomputed: bool) -> int:
    """Return the peak of a micro-batch. ``recomputed``: layers keep their input alone, one is whole."""
    kept = kept_token(shape, item)
    if recomputed:
        kept = item * shape.layers * shape.hidden_size + kept // shape.layers
    return tokens * (kept + _LOGITS_COPIES * _FLOAT_BYTES * shape.vocab_size)


def wide_head_bytes(shape: ModelShape, item: int) -> int:
    """Return the bytes of the float32 copy of a narrower head, with which a trainer computes the logits."""
    return _FLOAT_BYTES * shape.vocab_size * shape.hidden_size if item < _FLOAT_BYTES else 0


def step_bytes(shape: ModelShape, *, item: int, tokens: int, sequences: int) -> int:
    """Return the peak of an engine's step."""
    layer = _STEP_COPIES * item * shape.layer_values * tokens
    return layer + _SAMPLER_COPIES * _FLOAT_BYTES * shape.vocab_size * sequences


def microbatch_tokens(shape: ModelShape, item: int, *, free_bytes: int | None = None) -> int:
    """Return how many tokens a trainer takes at once where nobody has said it, as the trainer decides."""
    return fitting_tokens(_taken_token(shape, item), free_bytes=free_bytes)


def recomputes(shape: ModelShape, item: int, *, context: int, free_bytes: int) -> bool:
    """Return whether a trainer on a GPU computes layers again where it may choose, as the trainer decides."""
    return context * _taken_token(shape, item) > DEVICE_SHARE * free_bytes


def _taken_token(shape: ModelShape, item: int) -> int:
    """Return what the trainer takes a token's activations for: all experts included."""
    return item * sum((each.inputs + each.outputs) * each.count for each in shape.linears)
