"""Internal HTTP of operations, in msgpack: submit one, poll its outcome, read its session."""

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
    async def submit(request: Request) -> Response:
        """Answer when the operation is durable."""
        await operations.submit(read_packed(await request.body(), Submission))
        return Response(status_code=204)

    @http.get("/internal/operations/{policy_id}/{seq}")
    async def outcome(
        policy_id: str, seq: int, wait_seconds: float = Query(0.0, ge=0.0, le=MAX_WAIT_SECONDS)
    ) -> Response:
        """Answer when the operation is finished, or that it is not after a while."""
        found = await operations.outcome(PolicyId(policy_id), seq, wait_seconds=wait_seconds)
        return Response(found, media_type=MSGPACK)

    @http.post("/internal/operations/{policy_id}/{seq}/skip", status_code=204)
    async def skip(policy_id: str, seq: int, tenant_id: str) -> Response:
        """Answer when no operation waits for that number."""
        await operations.skip(PolicyId(policy_id), TenantId(tenant_id), seq)
        return Response(status_code=204)

    @http.post("/internal/operations/{policy_id}/{seq}/repeat", status_code=204)
    async def repeat(policy_id: str, seq: int) -> Response:
        """Answer when the event of an export is published once more."""
        await operations.repeat_export(PolicyId(policy_id), seq)
        return Response(status_code=204)

    @http.get("/internal/base")
    async def base() -> Response:
        """Answer which base is trained here, and whether it is now."""
        return packed(operations.info)

    @http.post("/internal/training/{policy_id}/records/release")
    async def release_records(policy_id: str, request: Request) -> Response:
        """Answer which records the policy's log still needs."""
        waves = [WaveId(one) for one in read_packed(await request.body(), list[str])]
        return packed(await operations.release_records(PolicyId(policy_id), waves))

    @http.post("/internal/training/resume")
    async def resume(request: Request) -> Response:
        """Answer what came of it that a policy was to go on from a revision, or that it is not done yet."""
        found = await operations.resume(read_packed(await request.body(), Resumption))
        return Response(found, media_type=MSGPACK)
