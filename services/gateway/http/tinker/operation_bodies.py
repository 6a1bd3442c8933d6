"""Bodies of operations: what is refused has had its place, and the next operation does not wait for it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request

from mint_common.authority import Caller
from mint_common.errors import MintError
from services.gateway.core.tinker.futures import PROTOBUF
from services.gateway.core.tinker.numbering import is_final, number_in
from services.gateway.http.edge.context import CallerDep, Gateway, GatewayDep
from services.gateway.http.tinker.bodies import BodyDep
from services.gateway.http.tinker.operations import find_run

SKIP_SECONDS = 0.5
"""How long a refusal waits for the trainer to hear of it: whoever made a mistake is told within a second."""


def is_protobuf(request: Request) -> bool:
    """Return whether a body is protobuf."""
    return request.headers.get("content-type", "").startswith(PROTOBUF)


async def _placed_body(
    request: Request, body: BodyDep, caller: CallerDep, gateway: GatewayDep
) -> AsyncIterator[bytes]:
    try:
        yield body
    except MintError as error:
        place = number_in(body, is_protobuf=is_protobuf(request)) if is_final(error) else None
        if place is not None:
            # A hint: without it, or without a trainer, the operations behind wait a bounded time.
            with contextlib.suppress(MintError, TimeoutError):
                async with asyncio.timeout(SKIP_SECONDS):
                    await _skip(gateway, caller, *place)
        raise


OperationBodyDep = Annotated[bytes, Depends(_placed_body)]
"""The body of an operation. When the route refuses it, its place is skipped before the client is told."""


async def _skip(gateway: Gateway, caller: Caller, model_id: str, seq: int) -> None:
    run = await find_run(gateway, model_id, caller.tenant_id)
    trainer = await gateway.tinker.trainers.find(run.base)
    await trainer.skip(run.policy_id, run.tenant_id, seq)
