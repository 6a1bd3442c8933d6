"""One OpenAI answer, streamed or whole.

The headers go out when every engine has said which revision answers: until then an error is still an HTTP
error, and a cold adapter only takes longer.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import msgspec
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from mint_common.catalog import Resolution
from mint_common.errors import MintError
from mint_common.generation import Delta, GenerationChunk, GenerationRequest, Sampling, Started
from mint_common.ids import TenantId, new_id
from mint_common.runtime.disconnect import cancelled_on_disconnect
from services.gateway.core.answer_bytes import check_answer_bytes, json_answer_bytes
from services.gateway.core.open_requests import Size
from services.gateway.core.openai.answers import (
    ResponseMeta,
    StreamedAnswer,
    WholeAnswer,
    check_unbroken,
    served_by,
)
from services.gateway.core.openai.dialects import Dialect
from services.gateway.core.openai.errors import error_body
from services.gateway.core.openai.requests import SamplingFields
from services.gateway.core.openai.sampling import PromptInput
from services.gateway.core.sse import DONE, data_frame
from services.gateway.http.edge.context import Gateway
from services.gateway.http.openai.generation import MergedStreams, open_streams

REVISION_HEADER = "x-mint-revision"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionCall:
    """One request, resolved and checked: what the engines are asked, and how the answer is written.

    ``lower`` are the fields that say how large the answer becomes.
    """

    body: SamplingFields
    tenant_id: TenantId
    target: Resolution
    inputs: Sequence[PromptInput]
    sampling: Sampling
    dialect: Dialect
    lower: tuple[str, ...]


async def answer(
    call: CompletionCall, *, request: Request, gateway: Gateway, held: AsyncExitStack
) -> Response:
    """Return the answer; ``held`` keeps the engines' streams open until it has been sent."""
    check_answer_bytes(_answer_bytes(call), gateway.max_answer_bytes, lower=call.lower)
    # Before any engine is called: a request refused halfway would waste what was started.
    size = Size(sequences=len(call.inputs), prompt_bytes=0)
    held.enter_context(gateway.open_prompts.counted(call.tenant_id, size))
    opened = open_streams(gateway.engines, call.target.base, _requests(call), admission=gateway.admission)
    async with cancelled_on_disconnect(request):
        answers = await held.enter_async_context(opened)
        starts = await answers.starts()
        head = _head(call, starts, created=int(gateway.clock.now()))
        headers = {REVISION_HEADER: head.served}
        if not call.body.stream:
            whole = await _gather(call, answers, starts, turn=gateway.encoding)
            body = msgspec.json.encode(whole.to_json(head))
            return Response(body, media_type="application/json", headers=headers)
    options = call.body.stream_options
    streamed = StreamedAnswer(
        call.dialect,
        starts,
        n=call.sampling.n,
        head=head,
        include_usage=bool(options and options.include_usage),
    )
    headers["cache-control"] = "no-cache"
    frames = _frames(streamed, answers, turn=gateway.encoding)
    return StreamingResponse(frames, media_type="text/event-stream", headers=headers)


async def _gather(
    call: CompletionCall, answers: MergedStreams, starts: Sequence[Started], *, turn: asyncio.Lock
) -> WholeAnswer:
    whole = WholeAnswer(call.dialect, starts, n=call.sampling.n)
    async for batch in answers.batches():
        for index, chunk in batch:
            check_unbroken(chunk)
            async with _in_turn(chunk, turn):
                whole.add(index, chunk)
    return whole


@asynccontextmanager
async def _in_turn(chunk: GenerationChunk, turn: asyncio.Lock) -> AsyncIterator[None]:
    """Encode log-probabilities of one chunk per iteration of the event loop, over all answers."""
    if not isinstance(chunk, Delta) or not chunk.alternatives:
        yield
        return
    async with turn:
        await asyncio.sleep(0)
        yield


async def _frames(
    streamed: StreamedAnswer, answers: MergedStreams, *, turn: asyncio.Lock
) -> AsyncIterator[bytes]:
    """Yield frames, all that belong to one batch together: sending costs more than encoding."""
    if frames := b"".join(map(data_frame, streamed.opening())):
        yield frames
    frames = b""
    try:
        async for batch in answers.batches():
            for index, chunk in batch:
                check_unbroken(chunk)
                async with _in_turn(chunk, turn):
                    frames += b"".join(map(data_frame, streamed.parts(index, chunk)))
            if frames:
                yield frames
            frames = b""
    except MintError as error:
        # The status line is gone already; clients raise an error that comes as an event.
        yield frames + data_frame(error_body(error))
        return
    yield b"".join(map(data_frame, streamed.closing())) + DONE


def _answer_bytes(call: CompletionCall) -> int:
    sampling = call.sampling
    return json_answer_bytes(
        choices=len(call.inputs) * sampling.n,
        new_tokens=sampling.max_new_tokens,
        likeliest=sampling.logprobs,
    )


def _head(call: CompletionCall, starts: Sequence[Started], *, created: int) -> ResponseMeta:
    revision = call.target.revision
    wished = None if revision is None else revision.digest
    return ResponseMeta(
        answer_id=new_id(call.dialect.id_prefix),
        created=created,
        model=call.body.model,
        served=served_by(starts, wished=wished, base=call.target.base),
    )


def _requests(call: CompletionCall) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            request_id=new_id("gen"),
            tenant_id=call.tenant_id,
            revision=call.target.revision,
            sampling=call.sampling,
            text=item.text,
            tokens=item.tokens,
            messages=item.messages,
        )
        for item in call.inputs
    ]
