"""Routes about a tenant's files: as OpenAI's API has them, and what MinT knows of them."""

from dataclasses import asdict
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from mint_common.datasets import Format, RenderRequest, method_of
from mint_common.errors import BodyTooLarge, NotFound
from mint_common.file_requests import FileUse, FileView, PreviewBody
from mint_common.ids import BaseName, TenantId
from mint_common.json_types import JsonObject
from mint_common.runtime.edge_body import announced_bytes
from mint_common.runtime.edge_routes import BodyRoute, StreamDep
from services.rollout.adapters.tenant_jobs_postgres import PostgresTenantJobs
from services.rollout.core.files.answers import file_answer, page_answer
from services.rollout.core.files.previews import MAX_TOKENS, check_is_rows, preview
from services.rollout.core.files.records import (
    FileDraft,
    IdPrefix,
    Order,
    check_expiry,
    check_filename,
    check_id,
    check_listed_purpose,
    check_purpose,
    page_size,
)
from services.rollout.core.fine_tuning.answers import has_results, results_csv, results_file
from services.rollout.core.fine_tuning.file_uses import file_use, newest_trained
from services.rollout.core.fine_tuning.names import job_of_results
from services.rollout.core.fine_tuning.refusals import results_stay
from services.rollout.http.context import PartsDep, RepeatedCause, Tenant, TenantParts
from services.rollout.http.forms import FORM_BYTES, read_form
from services.rollout.http.jobs import job_progress

PageLimit = Annotated[int, Query(ge=1, le=10_000)]
Text = Annotated[str | None, Query(max_length=200)]


router = APIRouter(prefix="/internal/tenants/{tenant_id}/openai/files", route_class=BodyRoute)
views = APIRouter(prefix="/internal/tenants/{tenant_id}/files", route_class=BodyRoute)


async def _results(parts: TenantParts, tenant_id: TenantId, file_id: str) -> tuple[JsonObject, bytes] | None:
    """Return a file with the results of a job, and its bytes; None for any other kind of file."""
    job_id = job_of_results(file_id)
    if job_id is None:
        return None
    try:
        job = await parts.tenant_jobs.on_file(tenant_id, job_id)
        found = await job_progress(parts.jobs, job, parts.trainers, steps=True)
    except NotFound as error:
        raise NotFound(kind="file", name=file_id) from error
    if not has_results(found):
        raise NotFound(kind="file", name=file_id)
    data = results_csv(found)
    return results_file(found.job, size_bytes=len(data)), data


@router.post("")
async def create_file(
    tenant_id: Tenant, request: Request, stream: StreamDep, parts: PartsDep, cause: RepeatedCause = None
) -> JsonObject:
    """Check a file and store it."""
    keeper = parts.keeper
    announced = announced_bytes(request.headers, limit=keeper.max_file_bytes + FORM_BYTES)
    room_bytes = keeper.max_file_bytes
    if not await keeper.files.is_made(tenant_id, cause):
        room_bytes = await keeper.check_room(tenant_id, max(0, announced - FORM_BYTES))
    async with keeper.spool.open(tenant_id) as sink:
        limit_bytes = min(keeper.max_file_bytes, room_bytes)
        try:
            form = await read_form(request, stream, sink, file_field="file", limit_bytes=limit_bytes)
        except BodyTooLarge:
            if limit_bytes < keeper.max_file_bytes:
                await keeper.check_room(tenant_id, limit_bytes + 1)
            raise
        anchor, seconds = (form.fields.get(f"expires_after[{name}]") for name in ("anchor", "seconds"))
        draft = FileDraft(
            tenant_id=tenant_id,
            filename=check_filename(form.filename or ""),
            purpose=check_purpose(form.fields.get("purpose", "")),
            expires_after_seconds=check_expiry(anchor, seconds),
            cause=cause,
        )
        return file_answer(await keeper.keep(draft, await sink.finish()))


@router.get("")
async def list_files(  # noqa: PLR0917  # FastAPI passes them by name
    tenant_id: Tenant,
    parts: PartsDep,
    limit: PageLimit = 10_000,
    order: Order = "desc",
    after: Text = None,
    purpose: Text = None,
) -> JsonObject:
    """Return a page of the tenant's files."""
    if after is not None:
        check_id(IdPrefix.FILE, after)
    if purpose is not None:
        check_listed_purpose(purpose)
    shown = page_size(limit)
    found = await parts.keeper.files.page(
        tenant_id, purpose=purpose, order=order, after=after, limit=shown + 1
    )
    return page_answer(found, file_answer, limit=shown)


@router.get("/{file}")
async def get_file(tenant_id: Tenant, file: str, parts: PartsDep) -> JsonObject:
    """Return one file."""
    found = await _results(parts, tenant_id, check_id(IdPrefix.FILE, file))
    return found[0] if found else file_answer(await parts.keeper.get(tenant_id, file))


@router.delete("/{file}")
async def delete_file(tenant_id: Tenant, file: str, parts: PartsDep) -> JsonObject:
    """Delete a file that no open job reads."""
    if job_of_results(check_id(IdPrefix.FILE, file)) is not None:
        raise results_stay(file)
    used = await uses_of(parts.tenant_jobs, tenant_id, file)
    await parts.keeper.remove(tenant_id, file)
    return {"id": file, "object": "file", "deleted": True, "mint": asdict(used)}


@router.get("/{file}/content")
async def get_content(tenant_id: Tenant, file: str, parts: PartsDep) -> Response:
    """Return a file's bytes."""
    found = await _results(parts, tenant_id, check_id(IdPrefix.FILE, file))
    if found:
        return Response(found[1], media_type="application/octet-stream")
    stored = await parts.keeper.get(tenant_id, file)
    headers = {"content-length": str(stored.size_bytes)}
    return StreamingResponse(
        parts.keeper.read(stored), headers=headers, media_type="application/octet-stream"
    )


async def uses_of(jobs: PostgresTenantJobs, tenant_id: TenantId, file_id: str) -> FileUse:
    """Return what used a file."""
    readers = await jobs.readers(tenant_id, file_id)
    numbers = await jobs.revision_numbers(newest_trained(file_id, readers))
    return file_use(file_id, readers, numbers)


@views.get("/{file}")
async def get_file_view(tenant_id: Tenant, file: str, parts: PartsDep) -> FileView:
    """Return a file's metadata and uses."""
    found = await parts.keeper.get(tenant_id, check_id(IdPrefix.FILE, file))
    told = asdict(found)
    del told["tenant_id"]
    return FileView(**told, used_by=await uses_of(parts.tenant_jobs, tenant_id, found.file_id))


@views.post("/{file}/preview")
async def preview_file(tenant_id: Tenant, file: str, body: PreviewBody, parts: PartsDep) -> Response:
    """Return rows as a base's trainer would train them."""
    found = await parts.keeper.get(tenant_id, check_id(IdPrefix.FILE, file))
    check_is_rows(found)
    base = BaseName(body.base)
    if base not in {each.name for each in await parts.registry.list_bases()}:
        raise NotFound(kind="base", name=body.base)
    validation = None
    if body.validation_file is not None:
        validation = await parts.keeper.get(tenant_id, check_id(IdPrefix.FILE, body.validation_file))
        check_is_rows(validation, field="validation_file")
    method = body.method or method_of(found.format or Format.CHAT)
    with parts.previewing.counted(tenant_id):
        request = RenderRequest(
            rows=tuple(await parts.keeper.read_rows(found, first_line=body.first_line, count=body.n)),
            method=method,
            max_tokens=body.max_tokens,
            token_limit=MAX_TOKENS,
            with_texts=True,
        )
        rendered = await (await parts.trainers.find(base)).render(request)
        shared = None if validation is None else await parts.keeper.shared_rows(found, validation)
        shown = preview(base, method, rendered, shared=shared)
    return Response(msgspec.json.encode(shown), media_type="application/json")
