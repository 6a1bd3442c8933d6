"""A sample's answer on the wire: protobuf for newer clients, JSON for clients before 0.25.

The engine's answer holds its numbers as the protobuf does, so that only JSON unpacks them.
"""

import struct
from typing import Any

import msgspec

from mint_common.generation import Likeliest, Sampled, SampledSequence, float32s, int32s
from services.gateway.core.tinker.sampling_request import SamplePlan
from services.gateway.core.tinker.schema import new_message

_WIDTH = 4
_NAN = struct.pack("<f", float("nan"))
_NO_TOKEN, _NO_LOGPROB = bytes(_WIDTH), struct.pack("<f", -99999.0)
_REASONS = {"stop": 0, "length": 1}
"""Values of ``StopReason``."""


def sample_protobuf(sampled: Sampled, plan: SamplePlan) -> bytes:
    """Return a ``SampleResponse``."""
    answer = new_message("SampleResponse")
    for sequence in sampled.sequences * plan.copies:
        told = answer.sequences.add(
            stop_reason=_REASONS[sequence.reason], tokens=sequence.tokens, logprobs=sequence.logprobs
        )
        if sequence.likeliest is not None:
            _fill(told.topk_sampled_logprobs, sequence.likeliest)
    own, likeliest = _prompt_scores(sampled, plan)
    if own is not None:
        answer.prompt_logprobs = own
    if likeliest is not None:
        _fill(answer.topk_prompt_logprobs, likeliest)
    return bytes(answer.SerializeToString())


def sample_json(sampled: Sampled, plan: SamplePlan) -> bytes:
    """Return a sample as JSON, for older clients."""
    answer: dict[str, object] = {
        "type": "sample",
        "sequences": [_sequence_json(sequence) for sequence in sampled.sequences * plan.copies],
    }
    own, likeliest = _prompt_scores(sampled, plan)
    if own is not None:
        answer["prompt_logprobs"] = _floats(own)
    if likeliest is not None:
        answer["topk_prompt_logprobs"] = _pairs(likeliest)
    return msgspec.json.encode(answer)


def _prompt_scores(sampled: Sampled, plan: SamplePlan) -> tuple[bytes | None, Likeliest | None]:
    """Return the requested scores of the prompt; earlier positions are empty."""
    unscored = len(plan.tokens) - plan.scored
    own, likeliest = None, None
    if plan.is_prompt_scored and sampled.prompt_logprobs is not None:
        own = _NAN * unscored + sampled.prompt_logprobs[_WIDTH * unscored :]
    if sampled.prompt_likeliest is not None:
        found = sampled.prompt_likeliest
        cells = unscored * found.count
        likeliest = Likeliest(
            count=found.count,
            tokens=_NO_TOKEN * cells + found.tokens[_WIDTH * cells :],
            logprobs=_NO_LOGPROB * cells + found.logprobs[_WIDTH * cells :],
        )
    return own, likeliest


def _fill(message: Any, likeliest: Likeliest) -> None:  # its class is made at run time
    message.token_ids = likeliest.tokens
    message.logprobs = likeliest.logprobs
    message.k = likeliest.count
    message.length = len(likeliest.tokens) // (_WIDTH * likeliest.count)


def _sequence_json(sequence: SampledSequence) -> dict[str, object]:
    told: dict[str, object] = {
        "stop_reason": sequence.reason,
        "tokens": int32s(sequence.tokens),
        "logprobs": _floats(sequence.logprobs),
    }
    if sequence.likeliest is not None:
        told["topk_logprobs"] = _pairs(sequence.likeliest)
    return told


def _pairs(likeliest: Likeliest) -> list[list[tuple[int, float]] | None]:
    """Return each position's (token, log-probability) pairs, None where there are none."""
    tokens, logprobs = int32s(likeliest.tokens), float32s(likeliest.logprobs)
    count = likeliest.count
    pairs = [(token, logprob) for token, logprob in zip(tokens, logprobs, strict=True)]
    rows = [pairs[at : at + count] for at in range(0, len(pairs), count)]
    return [[pair for pair in row if pair[1] > _EMPTY] or None for row in rows]


_EMPTY = -99998.0


def _floats(data: bytes) -> list[float | None]:
    return [None if number != number else number for number in float32s(data)]  # noqa: PLR0124  # NaN
