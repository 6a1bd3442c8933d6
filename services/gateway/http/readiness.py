"""Waiting until a revision can answer at once."""

import asyncio

from mint_common.errors import RevisionNotReady
from mint_common.ids import Digest, TenantId
from services.gateway.http.context import Gateway


async def await_ready(gateway: Gateway, tenant_id: TenantId, policy: str, revision: int | Digest) -> None:
    """Load a revision on the engine that its requests go to now, and return when it is ready.

    Raises RevisionNotReady after `ready_seconds`, and as `EngineClient.prewarm`.
    """
    base = (await gateway.registry.get_policy(tenant_id, policy)).base
    ref = (await gateway.registry.get_revision(tenant_id, policy, revision)).ref
    try:
        async with asyncio.timeout(gateway.ready_seconds):
            engine = await gateway.engines.find(base, digest=ref.digest)
            gateway.engines.believe(engine, await engine.prewarm(ref, tenant_id=tenant_id))
    except TimeoutError as error:
        raise RevisionNotReady(number=ref.number, name=policy, seconds=gateway.ready_seconds) from error
