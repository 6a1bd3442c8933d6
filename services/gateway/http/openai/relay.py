"""Requests of the inference APIs, relayed to an engine: the client's bytes there, the answer's bytes back.

Invariants: a body is decoded once, by `read_request`; a client's headers are not forwarded; an answer is
withheld unless it names the requested revision; a disconnect ends the request on the engine.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import aclosing
from functools import partial

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from mint_common.answer_ids import answer_id
from mint_common.api_errors import error_event
from mint_common.authority import Caller
from mint_common.catalog import Resolution
from mint_common.client.relayed import Relayed
from mint_common.errors import InvalidField, MintError
from mint_common.generation import ENGINE_HEADER, IGNORED_HEADER, REVISION_HEADER, TIER_HEADER, CallFacts
from mint_common.inference.operations import ApiOperation
from mint_common.inference.sizes import check_answer_bytes, entries_of, json_bytes
from mint_common.runtime.disconnect import cancelled_on_disconnect, until_gone
from mint_common.runtime.draining import set_stream_error
from mint_common.runtime.slow_clients import MinRate, ReaderTooSlow, read_in_time
from mint_common.telemetry.tracing import annotate, is_recorded
from services.gateway.core.openai.genai import (
    answer_attributes,
    engine_attributes,
    request_attributes,
    target_attributes,
)
from services.gateway.core.openai.serving_request import ServingRequest
from services.gateway.http.edge.bodies import answered
from services.gateway.http.mint.context import CATALOG
from services.gateway.http.openai.admission import asked_of
from services.gateway.http.openai.context import INFERENCE

READER_RATE = MinRate(bytes_per_second=4 << 10, grace_seconds=60, stall_seconds=30)
"""Minimum rate of a stream's reader; below it the connection is closed. A reader may stall for less time
than the engine's side waits (`ConnectionBounds.unread_seconds`), which would otherwise look like the death
of an engine."""
_LAST_PARTS = 3
"""Last parts of a stream that are kept for its span: they have the finish reason and the token counts."""
_GENERATED = (REVISION_HEADER, ENGINE_HEADER, TIER_HEADER, IGNORED_HEADER)


class WrongRevision(MintError):
    """The engine answered as {found}, but {expected} was requested: the answer is withheld."""

    code = "wrong_revision"
    http_status = 500


async def relay(request: Request, caller: Caller) -> Response:
    """Return an engine's answer, whole or as a stream of bytes."""
    catalog, limits, asked = CATALOG.of(request), INFERENCE.of(request), asked_of(request)
    annotate(request_attributes(asked))
    target = await catalog.resolver.resolve(caller.tenant_id, asked.model)
    annotate(target_attributes(target))
    operation = asked.operation
    base = await catalog.engines.limits(target.base)
    if asked.choices > base.max_completions:
        field = "messages" if operation is ApiOperation.CHAT_BATCH else "n"
        raise InvalidField(field=field, problem=f"must be at most {base.max_completions} over all prompts")
    new_tokens = base.max_context if asked.max_tokens is None else asked.max_tokens
    size_bytes = json_bytes(tokens=asked.choices * new_tokens, entries=entries_of(asked.likeliest))
    check_answer_bytes(size_bytes, limits.max_answer_bytes, lower=_lower(asked))
    answered(request).enter_context(limits.open_prompts.counted(caller.tenant_id))
    if not asked.stream:
        answered(request).enter_context(limits.open_answers.counted(caller.tenant_id, size_bytes))
    facts = CallFacts(
        model=asked.model,
        request_id=answer_id(target.revision),
        tenant_id=caller.tenant_id,
        revision=target.revision if operation.generates else None,
    )
    async with cancelled_on_disconnect(request):
        answer = await catalog.engines.serve(
            target.base, operation, await request.body(), facts, max_tokens=asked.choices * new_tokens
        )
        answered(request).callback(answer.close)
        if operation.generates:
            check_answers(answer.headers.get(REVISION_HEADER, "nothing"), target)
        told = _GENERATED if operation.generates else (IGNORED_HEADER,)
        headers = {name: answer.headers[name] for name in told if name in answer.headers}
        annotate(engine_attributes(headers))
        if not answer.is_stream:
            whole = await answer.whole()
            if is_recorded():
                annotate(answer_attributes(whole))
            return Response(whole, media_type="application/json", headers=headers)
    set_stream_error(request.scope, partial(error_event, operation))
    return RelayedStream(answer, operation=operation, headers=headers)


def _lower(asked: ServingRequest) -> tuple[str, ...]:
    """Return the fields that make an answer large."""
    scored = "top_logprobs" if asked.operation.is_chat else "logprobs"
    return ("max_tokens", "n") if asked.likeliest is None else (scored, "max_tokens", "n")


def check_answers(found: str, target: Resolution) -> None:
    """Check that the answering digest or ``base:NAME`` is the requested one. Raises WrongRevision."""
    expected = f"base:{target.base}" if target.revision is None else target.revision.digest
    if found != expected:
        raise WrongRevision(found=found, expected=expected)


class RelayedStream(Response):
    """Sends an engine's stream as it arrives, until the client disconnects."""

    media_type = "text/event-stream"

    def __init__(self, answer: Relayed, *, operation: ApiOperation, headers: Mapping[str, str]) -> None:
        self._answer = answer
        self._operation = operation
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache", **headers})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI
        """Send until the end or until the client disconnects."""
        sending = asyncio.ensure_future(self._send(read_in_time(send, READER_RATE)))
        watching = asyncio.ensure_future(until_gone(receive))
        try:
            await asyncio.wait((sending, watching), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self._answer.close()
            for task in (sending, watching):
                task.cancel()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        end = deque((b"",), maxlen=_LAST_PARTS)
        try:
            async with aclosing(self._answer.parts()) as parts:
                async for part in parts:
                    end.append(part)
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            if is_recorded():
                annotate(answer_attributes(b"".join(end)))
        except ReaderTooSlow:
            return  # without the end: the connection is closed
        except MintError as error:
            # The status has been sent; clients raise an error that arrives as an event.
            annotate({"error.type": error.code})
            told = error_event(self._operation, error)
            await send({"type": "http.response.body", "body": told, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
