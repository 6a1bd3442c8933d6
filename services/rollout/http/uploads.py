"""Routes about files that come in parts, as OpenAI's API has them."""

from fastapi import APIRouter, Request

from mint_common.file_requests import CompleteBody, UploadBody
from mint_common.json_types import JsonObject
from mint_common.runtime.edge_routes import BodyRoute, StreamDep
from services.rollout.core.files.answers import part_answer, upload_answer
from services.rollout.core.files.records import (
    PART_BYTES,
    FileDraft,
    IdPrefix,
    check_expiry,
    check_filename,
    check_id,
    check_purpose,
)
from services.rollout.http.context import PartsDep, RepeatedCause, Tenant
from services.rollout.http.forms import read_form

router = APIRouter(prefix="/internal/tenants/{tenant_id}/openai/uploads", route_class=BodyRoute)


@router.post("")
async def create_upload(
    tenant_id: Tenant, body: UploadBody, parts: PartsDep, cause: RepeatedCause = None
) -> JsonObject:
    """Begin a file that comes in parts."""
    after = body.expires_after
    draft = FileDraft(
        tenant_id=tenant_id,
        filename=check_filename(body.filename),
        purpose=check_purpose(body.purpose),
        expires_after_seconds=None if after is None else check_expiry(after.anchor, after.seconds),
        cause=cause,
    )
    return upload_answer(
        await parts.uploads.create(draft, size_bytes=body.bytes, mime_type=body.mime_type), None
    )


@router.post("/{upload}/parts")
async def add_part(  # noqa: PLR0917  # FastAPI passes them by name
    tenant_id: Tenant,
    upload: str,
    request: Request,
    stream: StreamDep,
    parts: PartsDep,
    cause: RepeatedCause = None,
) -> JsonObject:
    """Add a part."""
    found = await parts.uploads.pending(tenant_id, check_id(IdPrefix.UPLOAD, upload))
    async with parts.keeper.spool.open(tenant_id) as sink:
        await read_form(request, stream, sink, file_field="data", limit_bytes=PART_BYTES)
        return part_answer(await parts.uploads.add_part(found, await sink.finish(), cause=cause))


@router.post("/{upload}/complete")
async def complete_upload(tenant_id: Tenant, upload: str, body: CompleteBody, parts: PartsDep) -> JsonObject:
    """Put the parts together as a file."""
    completed, file = await parts.uploads.complete(
        tenant_id, check_id(IdPrefix.UPLOAD, upload), body.part_ids, md5=body.md5
    )
    return upload_answer(completed, file)


@router.post("/{upload}/cancel")
async def cancel_upload(tenant_id: Tenant, upload: str, parts: PartsDep) -> JsonObject:
    """Give an upload up."""
    return upload_answer(await parts.uploads.cancel(tenant_id, check_id(IdPrefix.UPLOAD, upload)), None)
