"""Internal HTTP of operations, in msgpack: submit one, poll its outcome, read its session.

``is_sent_on``: another trainer of the pool took it in; it is done here, or refused.
"""

from fastapi import FastAPI, Query, Request, Response

from mint_common.client.http import MSGPACK
from mint_common.ids import PolicyId, TenantId, WaveId
from mint_common.training import Resumption, Submission
from services.trainer.handlers.operations import Operations
from services.trainer.http.packed import packed, read_packed

MAX_WAIT_SECONDS = 60.0


def add_routes(http: FastAPI, operations: Operations) -> None:
    """Add the routes to the trainer's HTTP application."""

    @http.post("/internal/operations", status_code=204)
    async def submit(request: Request, *, is_sent_on: bool = False) -> Response:
        """Answer when the operation is durable."""
        await operations.submit(read_packed(await request.body(), Submission), is_sent_on=is_sent_on)
        return Response(status_code=204)

    @http.get("/internal/operations/{policy_id}/{seq}")
    async def outcome(
        policy_id: str,
        seq: int,
        wait_seconds: float = Query(0.0, ge=0.0, le=MAX_WAIT_SECONDS),
        *,
        is_sent_on: bool = False,
    ) -> Response:
        """Answer when the operation is finished, or that it is not after a while."""
        policy = PolicyId(policy_id)
        found = await operations.outcome(policy, seq, wait_seconds=wait_seconds, is_sent_on=is_sent_on)
        return Response(found, media_type=MSGPACK)

    @http.post("/internal/operations/{policy_id}/{seq}/skip", status_code=204)
    async def skip(policy_id: str, seq: int, tenant_id: str, *, is_sent_on: bool = False) -> Response:
        """Answer when no operation waits for that number."""
        await operations.skip(PolicyId(policy_id), TenantId(tenant_id), seq, is_sent_on=is_sent_on)
        return Response(status_code=204)

    @http.post("/internal/operations/{policy_id}/{seq}/repeat", status_code=204)
    async def repeat(policy_id: str, seq: int) -> Response:
        """Answer when the event of an export is published once more."""
        await operations.repeat_export(PolicyId(policy_id), seq)
        return Response(status_code=204)

    @http.get("/internal/usage")
    async def usage(tenant_id: str) -> Response:
        """Answer what a tenant's clients use, and may use."""
        return packed(await operations.usage(TenantId(tenant_id)))

    @http.get("/internal/base")
    async def base() -> Response:
        """Answer which base is trained here, and whether it is now."""
        return packed(operations.info)

    @http.post("/internal/training/{policy_id}/records/release")
    async def release_records(policy_id: str, request: Request, *, is_sent_on: bool = False) -> Response:
        """Answer which records the policy's log still needs."""
        waves = [WaveId(one) for one in read_packed(await request.body(), list[str])]
        needed = await operations.release_records(PolicyId(policy_id), waves, is_sent_on=is_sent_on)
        return packed(needed)

    @http.post("/internal/training/resume")
    async def resume(request: Request, *, is_sent_on: bool = False) -> Response:
        """Answer what came of it that a policy was to go on from a revision, or that it is not done yet."""
        asked = read_packed(await request.body(), Resumption)
        found = await operations.resume(asked, is_sent_on=is_sent_on)
        return Response(found, media_type=MSGPACK)
