"""``/inference/v1/generate``: token ids in, token ids with their log-probabilities out.

The contract is that of RL trainers (verifiers, prime-rl): each token of an answer has exactly one finite
log-probability, named ``token_id:N``, so nothing is tokenized twice.
"""

import base64
from dataclasses import dataclass
from typing import Literal

import msgspec

from mint_common.claims import RevisionRef
from mint_common.errors import InvalidField
from mint_common.generation import (
    Likeliest,
    LogprobsMode,
    Sampled,
    SampledSequence,
    SampleRequest,
    Sampling,
    float32s,
    int32s,
)
from mint_common.ids import TenantId
from mint_common.inference.body import read_body
from mint_common.inference.fields import (
    VALUE_BYTES,
    Alternatives,
    Choices,
    FieldRules,
    Int64,
    Stops,
    StopTokens,
    Token,
    TokenCount,
    TopK,
    accepted,
    check_fields,
    refused,
)
from mint_common.json_reading import convert_json


class SamplingParams(msgspec.Struct, frozen=True):
    """The fields of vLLM's ``SamplingParams`` that are used, and two of MinT's own."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: TopK | None = None
    seed: Int64 | None = None
    n: Choices | None = None
    max_tokens: TokenCount | None = None
    stop: Stops | None = None
    stop_token_ids: StopTokens | None = None
    ignore_eos: bool | None = None
    logprobs: Alternatives | None = None
    routed_experts_prompt_start: TokenCount | None = None
    logprobs_mode: LogprobsMode | None = None
    return_routed_experts: bool | None = None


class GenerateBody(msgspec.Struct, frozen=True):
    """A body that `read_generate` has checked."""

    model: str
    token_ids: tuple[Token, ...]
    sampling_params: SamplingParams
    return_token_ids: bool | None = None


_OTHER_LOGPROBS = "the log-probabilities would not be those of what was sampled from"
_ENGINE_PARTS = "settings of the engine's own parts"
SAMPLING_PARAMS: FieldRules = {
    **accepted("temperature top_p top_k seed n max_tokens stop stop_token_ids ignore_eos logprobs"),
    **accepted("routed_experts_prompt_start"),
    **accepted("logprobs_mode", note="`raw` or `processed`: the model's, or those at the temperature"),
    **accepted("return_routed_experts", note="the experts of each token"),
    **accepted(
        "detokenize skip_special_tokens spaces_between_special_tokens include_stop_str_in_output "
        "stream_interval",
        note="changes nothing: the answer is tokens",
    ),
    **refused(
        "min_p presence_penalty frequency_penalty logit_bias min_tokens watermarking allowed_token_ids "
        "bad_words thinking_token_budget structured_outputs repetition_detection",
        _OTHER_LOGPROBS,
        *(0, False, [], {}),
    ),
    **refused("repetition_penalty", _OTHER_LOGPROBS, 1),
    **refused("prompt_logprobs", "completions give those of a prompt"),
    **refused("logprob_token_ids", "chat gives those of chosen tokens"),
    **refused(
        "extra_args output_kind output_text_buffer_length flat_logprobs skip_clone skip_reading_prefix_cache "
        "prompt_logprob_token_ids prompt_logprob_start trace_decode_token_ids _eos_token_id "
        "_all_stop_token_ids _watermarking_skipped _bad_words_token_ids",
        _ENGINE_PARTS,
        *({}, False, 0),
    ),
}
"""The fields of ``sampling_params``."""
GENERATE: FieldRules = {
    **accepted("model sampling_params return_token_ids"),
    **accepted("token_ids", note="at most the base's context", max_bytes=None),
    **accepted("stream_options token_offsets reasoning_ended", note="changes nothing"),
    **accepted("cache_salt priority", note="changes nothing: each tenant has its own"),
    **refused("stream", "an answer comes whole", False),
    **refused("output_mode", "the answer is tokens", "tokens"),
    **refused("request_id", "the engine's own"),
    **refused("features content_parts", "pictures and sounds are not read", []),
    **refused(
        "kv_transfer_params ec_transfer_params reasoning_parser_kwargs parse_context", _ENGINE_PARTS, {}
    ),
}
"""The fields of a request."""


def read_generate(body: bytes) -> GenerateBody:
    """Return a request. Raises InvalidField naming the first wrong field."""
    read, is_large = read_body(body), len(body) > VALUE_BYTES
    check_fields(read, GENERATE, is_large=is_large)
    if isinstance(sampling := read.get("sampling_params"), dict):
        check_fields(sampling, SAMPLING_PARAMS, is_large=is_large, within="sampling_params.")
    checked: GenerateBody = convert_json(read, GenerateBody)
    return checked


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One completion of an answer; ``content`` is None where no log-probabilities were asked for."""

    index: int
    token_ids: tuple[int, ...]
    finish_reason: Literal["stop", "length"]
    logprobs: dict[str, list[dict[str, object]]] | None
    routed_experts: dict[str, object] | None


def plan_generate(
    body: GenerateBody,
    *,
    request_id: str,
    tenant_id: TenantId,
    revision: RevisionRef | None,
    max_context: int,
) -> SampleRequest:
    """Return the request to the engine; without ``max_tokens`` an answer may use the remaining context."""
    given = body.sampling_params
    room = max(1, max_context - len(body.token_ids))
    stop = (given.stop,) if isinstance(given.stop, str) else given.stop
    return SampleRequest(
        request_id=request_id,
        tenant_id=tenant_id,
        revision=revision,
        tokens=body.token_ids,
        sampling=Sampling(
            max_new_tokens=room if given.max_tokens is None else given.max_tokens,
            temperature=1.0 if given.temperature is None else given.temperature,
            top_p=1.0 if given.top_p is None else given.top_p,
            top_k=max(0, given.top_k or 0),
            seed=given.seed,
            n=given.n or 1,
            stop=tuple(stop or ()),
            stop_tokens=tuple(dict.fromkeys(given.stop_token_ids or ())),
            ignore_eos=bool(given.ignore_eos),
            logprobs=given.logprobs,
        ),
        logprobs_mode=given.logprobs_mode or "raw",
        routes=bool(given.return_routed_experts),
    )


NAMES = {
    "tokens": "token_ids",
    "routes": "sampling_params.return_routed_experts",
    "logprobs_mode": "sampling_params.logprobs_mode",
    "sampling.max_new_tokens": "sampling_params.max_tokens",
    "sampling.stop_tokens": "sampling_params.stop_token_ids",
}


def in_clients_words(error: InvalidField) -> InvalidField:
    """Return an engine's error about its request in the client's terms."""
    found = str(error.field)
    name = NAMES.get(found, found.replace("sampling.", "sampling_params.", 1))
    return InvalidField(field=name, problem=str(error.problem))


def generate_answer(
    body: GenerateBody, sampled: Sampled, *, request_id: str, routed_layers: int, named: str
) -> bytes:
    """Return the JSON answer; ``named`` is the model that answered."""
    choices = [
        _choice(index, each, body=body, routed_layers=routed_layers)
        for index, each in enumerate(sampled.sequences)
    ]
    made = sum(len(choice.token_ids) for choice in choices)
    answer = {
        "request_id": request_id,
        "model": body.model,
        "system_fingerprint": named,
        "choices": choices,
        "usage": {
            "prompt_tokens": len(body.token_ids),
            "completion_tokens": made,
            "total_tokens": len(body.token_ids) + made,
        },
    }
    if body.return_token_ids:
        answer["prompt_token_ids"] = body.token_ids
    return msgspec.json.encode(answer)


def _choice(index: int, sequence: SampledSequence, *, body: GenerateBody, routed_layers: int) -> Choice:
    given = body.sampling_params
    tokens = int32s(sequence.tokens)
    content = None
    if given.logprobs is not None:
        own = zip(tokens, float32s(sequence.logprobs), _tops(sequence.likeliest, len(tokens)), strict=True)
        content = {"content": [{**_scored(token, value), "top_logprobs": top} for token, value, top in own]}
    return Choice(
        index=index,
        token_ids=tokens,
        finish_reason=sequence.reason,
        logprobs=content,
        routed_experts=_routed(sequence.routes, given, len(body.token_ids) + len(tokens) - 1, routed_layers),
    )


def _scored(token: int, logprob: float) -> dict[str, object]:
    return {"token": f"token_id:{token}", "token_id": token, "logprob": logprob}


def _tops(likeliest: Likeliest | None, count: int) -> list[list[dict[str, object]]]:
    if likeliest is None:
        return [[] for _ in range(count)]
    pairs = list(zip(int32s(likeliest.tokens), float32s(likeliest.logprobs), strict=True))
    rows = [pairs[at : at + likeliest.count] for at in range(0, len(pairs), likeliest.count)]
    return [[_scored(*pair) for pair in row] for row in rows]


def _routed(routes: bytes, given: SamplingParams, tokens: int, layers: int) -> dict[str, object] | None:
    """Return routes from a position on, as little-endian uint16 ``[tokens, layers, experts of a token]``."""
    if not routes or not layers or tokens <= 0:
        return None
    start = min(given.routed_experts_prompt_start or 0, tokens)
    token_bytes = len(routes) // tokens
    return {
        "data": base64.b64encode(routes[start * token_bytes :]).decode(),
        "shape": [tokens - start, layers, token_bytes // (2 * layers)],
        "start": start,
        "dtype": "uint16",
    }
