"""Bodies of numbered operations: a refused one's number is skipped, so later operations do not wait."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from fastapi import Depends, Request

from mint_common.authority import Caller
from mint_common.errors import InvalidField, MintError
from mint_common.json_reading import read_json
from services.gateway.core.tinker.futures import PROTOBUF
from services.gateway.core.tinker.ids import check_seq
from services.gateway.core.tinker.schema import read_message
from services.gateway.http.edge.context import CallerDep
from services.gateway.http.tinker.bodies import DataBodyDep
from services.gateway.http.tinker.context import Tinker, TinkerDep
from services.gateway.http.tinker.operations import find_run

SKIP_SECONDS = 0.5
"""Time that a refusal waits for the trainer to skip the number, so that the client gets it within a
second.
"""


def is_protobuf(request: Request) -> bool:
    """Return whether a body is protobuf."""
    return request.headers.get("content-type", "").startswith(PROTOBUF)


async def _operation_body(
    request: Request, body: DataBodyDep, caller: CallerDep, tinker: TinkerDep
) -> AsyncIterator[bytes]:
    try:
        yield body
    except MintError as error:
        is_final = not error.retryable and error.http_status < 500  # no client sends it again
        numbered = _number_in(body, is_protobuf=is_protobuf(request)) if is_final else None
        if numbered is not None:
            # Best effort: without the skip, later operations wait a bounded time.
            with contextlib.suppress(MintError, TimeoutError):
                async with asyncio.timeout(SKIP_SECONDS):
                    await _skip(tinker, caller, numbered)
        raise


OperationBodyDep = Annotated[bytes, Depends(_operation_body)]
"""Body of an operation. When the route refuses it, the trainer skips its number before the client gets the
answer."""


class _Numbered(msgspec.Struct, frozen=True):
    model_id: str
    seq_id: int


def _number_in(body: bytes, *, is_protobuf: bool) -> _Numbered | None:
    """Return an operation's training run and number from a possibly invalid body; None if it has none."""
    try:
        read = read_message("ForwardBackwardRequest", body) if is_protobuf else read_json(body, _Numbered)
        return _Numbered(model_id=read.model_id, seq_id=check_seq(read.seq_id))
    except InvalidField:
        return None


async def _skip(tinker: Tinker, caller: Caller, numbered: _Numbered) -> None:
    run = await find_run(tinker, numbered.model_id, caller.tenant_id)
    trainer = await tinker.catalog.trainers.find(run.base)
    await trainer.skip(run.policy_id, run.tenant_id, numbered.seq_id)
