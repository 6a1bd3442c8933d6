"""Bodies of numbered operations: a refused one's number is skipped, so that later operations do not wait."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request

from mint_common.authority import Caller
from mint_common.errors import MintError
from services.gateway.core.tinker.futures import PROTOBUF
from services.gateway.core.tinker.passes import is_final, number_in
from services.gateway.http.edge.context import CallerDep, Gateway, GatewayDep
from services.gateway.http.tinker.bodies import BodyDep
from services.gateway.http.tinker.operations import find_run

SKIP_SECONDS = 0.5
"""How long a refusal may wait for the trainer to skip the number: the client hears within a second."""


def is_protobuf(request: Request) -> bool:
    """Return whether a body is protobuf."""
    return request.headers.get("content-type", "").startswith(PROTOBUF)


async def _operation_body(
    request: Request, body: BodyDep, caller: CallerDep, gateway: GatewayDep
) -> AsyncIterator[bytes]:
    try:
        yield body
    except MintError as error:
        numbered = number_in(body, is_protobuf=is_protobuf(request)) if is_final(error) else None
        if numbered is not None:
            # Best effort: without the skip, later operations wait a bounded time.
            with contextlib.suppress(MintError, TimeoutError):
                async with asyncio.timeout(SKIP_SECONDS):
                    await _skip(gateway, caller, *numbered)
        raise


OperationBodyDep = Annotated[bytes, Depends(_operation_body)]
"""The body of an operation. When the route refuses it, its number is skipped before the client is told."""


async def _skip(gateway: Gateway, caller: Caller, model_id: str, seq: int) -> None:
    run = await find_run(gateway, model_id, caller.tenant_id)
    trainer = await gateway.tinker.trainers.find(run.base)
    await trainer.skip(run.policy_id, run.tenant_id, seq)
