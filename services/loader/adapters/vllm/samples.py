"""Whole samples from vLLM: final outputs only, texts only where stop strings need them, arrays as bytes."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, Literal

import numpy as np

from mint_common.errors import EngineFailed
from mint_common.generation import Likeliest, SampledSequence, SampleRequest, logprobs_temperature
from mint_common.ids import Digest
from services.loader.adapters.vllm.engine_errors import unanswered
from services.loader.adapters.vllm.processed_logprobs import TEMPERATURE
from services.loader.adapters.vllm.routes import ASKED
from services.loader.ports import WholeSample

_REASONS: dict[str, Literal["stop", "length"]] = {"stop": "stop", "length": "length"}
_NO_TOKEN = -99999.0


def sample_params(request: SampleRequest, *, noted_as: str | None) -> Any:
    """Return vLLM's parameters of a request, whose routes are noted under a name if there is one."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    own = logprobs_temperature(request.logprobs_mode, sampling.temperature)
    extra: dict[str, object] = {TEMPERATURE: own} if own != 1.0 else {}
    if noted_as is not None:
        extra[ASKED] = [noted_as, sampling.n]
    return SamplingParams(
        n=sampling.n,
        max_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature if own == 1.0 else 1.0,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=sampling.seed,
        stop=list(sampling.stop),
        stop_token_ids=list(sampling.stop_tokens),
        ignore_eos=sampling.ignore_eos,
        logprobs=sampling.logprobs or 0,
        prompt_logprobs=request.prompt_logprobs,
        flat_logprobs=True,
        detokenize=request.texts or bool(sampling.stop),
        skip_special_tokens=not sampling.stop,  # a stop string may be a special token's text
        output_kind=RequestOutputKind.FINAL_ONLY,
        extra_args=extra or None,
        routed_experts_prompt_start=0 if request.routes else len(request.tokens),
    )


async def final_output(outputs: Any, *, lora_request: Any) -> Any:
    """Wait for the final output. Raises EngineFailed when the engine gave it up."""
    final = None
    async with aclosing(outputs) as parts:
        async for output in parts:
            final = output
    if final is None:
        raise EngineFailed(problem="it ended a request without an answer")
    assert final.lora_request == lora_request, "vLLM answered with another adapter"
    return final


async def pack_sample(
    final: Any, request: SampleRequest, *, lora_request: Any, routes: Mapping[int, bytes]
) -> WholeSample:
    """Pack a final output; ``routes`` of each completion by its index.

    Raises NonFiniteOutput when the engine computed no finite numbers, EngineFailed when it aborted.
    """
    served = Digest(lora_request.lora_name) if lora_request else None
    own, likeliest = None, None
    if request.prompt_logprobs is not None:
        own, likeliest = _unpack(final.prompt_logprobs, len(request.tokens), request.prompt_logprobs)
    sequences = []
    for each in final.outputs:
        sequences.append(_sequence(each, request, served=served, routes=routes.get(each.index, b"")))
        await asyncio.sleep(0)  # one of 2,048 tokens takes 2 ms, and a request may have 128
    return WholeSample(
        served=served,
        sequences=tuple(sequences),
        prompt_logprobs=own,
        prompt_likeliest=likeliest,
    )


def _sequence(
    completion: Any, request: SampleRequest, *, served: Digest | None, routes: bytes
) -> SampledSequence:
    reason = _REASONS.get(completion.finish_reason)
    if reason is None:
        raise unanswered(completion, served=served)
    logprobs, likeliest = _unpack(
        completion.logprobs, len(completion.token_ids), request.sampling.logprobs or 0
    )
    return SampledSequence(
        reason=reason,
        tokens=np.asarray(completion.token_ids, dtype="<i4").tobytes(),
        logprobs=logprobs,
        likeliest=likeliest,
        text=completion.text if request.texts else "",
        routes=routes,
    )


def _unpack(flat: Any, positions: int, wanted: int) -> tuple[bytes, Likeliest | None]:
    """Return each position's own log-probability, and its likeliest tokens when some are wanted.

    vLLM gives every position its own token first, then the likeliest ones; an unscored one has none.
    """
    starts = np.asarray(flat.start_indices[:positions], dtype="<i8")
    counts = np.asarray(flat.end_indices[:positions], dtype="<i8") - starts
    values = np.asarray([*flat.logprobs, np.nan], dtype="<f4")
    own = values[np.where(counts > 0, starts, -1)]
    if not wanted:
        return own.tobytes(), None
    columns = np.arange(1, wanted + 1)
    cells = np.where(columns < counts[:, None], starts[:, None] + columns, -1)
    values[-1] = _NO_TOKEN
    tokens = np.asarray([*flat.token_ids, 0], dtype="<i4")[cells]
    logprobs = values[cells]
    return own.tobytes(), Likeliest(count=wanted, tokens=tokens.tobytes(), logprobs=logprobs.tobytes())
