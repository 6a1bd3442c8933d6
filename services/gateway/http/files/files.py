"""``/v1/files``: a tenant's files, as OpenAI's API has them."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from mint_common.errors import BodyTooLarge
from mint_common.json_types import JsonObject
from mint_common.runtime.edge_body import announced_bytes
from mint_common.runtime.edge_routes import StreamDep
from services.gateway.core.files.answers import file_answer, page_answer
from services.gateway.core.files.records import (
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
from services.gateway.core.fine_tuning.names import job_of_results
from services.gateway.core.fine_tuning.refusals import results_stay
from services.gateway.http.edge.context import GatewayDep, ReadCaller, TrainCaller
from services.gateway.http.edge.downloads import Download
from services.gateway.http.edge.recording import RepeatableDep, creates
from services.gateway.http.files.forms import FORM_BYTES, form_schema, read_form
from services.gateway.http.files.routes import FilesRoute

router = APIRouter(prefix="/v1/files", tags=["files"], route_class=FilesRoute)

_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")

PageLimit = Annotated[int, Query(ge=1, le=10_000)]
Text = Annotated[str | None, Query(max_length=200)]


@router.post("", dependencies=[creates("id")], openapi_extra=form_schema("file", fields=_FIELDS))
async def create_file(
    request: Request, stream: StreamDep, caller: TrainCaller, gateway: GatewayDep, cause: RepeatableDep
) -> JsonObject:
    """Upload a file. One for the purpose fine-tune is checked whole, as rows (docs/datasets.md).

    A file with bad rows is refused with 400 `invalid_jsonl`: `errors` has the first 100 problems with their
    lines, `count` says how many there are.
    """
    keeper = gateway.files.keeper
    with gateway.files.arriving.counted(caller.tenant_id):
        announced = announced_bytes(request.headers, limit=keeper.max_file_bytes + FORM_BYTES)
        room_bytes = keeper.max_file_bytes
        if not await keeper.files.is_made(caller.tenant_id, cause):
            room_bytes = await keeper.check_room(caller.tenant_id, max(0, announced - FORM_BYTES))
        async with keeper.spool.open(caller.tenant_id) as sink:
            limit_bytes = min(keeper.max_file_bytes, room_bytes)
            try:
                form = await read_form(request, stream, sink, file_field="file", limit_bytes=limit_bytes)
            except BodyTooLarge:
                if limit_bytes < keeper.max_file_bytes:
                    await keeper.check_room(caller.tenant_id, limit_bytes + 1)
                raise
            draft = FileDraft(
                tenant_id=caller.tenant_id,
                filename=check_filename(form.filename or ""),
                purpose=check_purpose(form.fields.get("purpose", "")),
                expires_after_seconds=check_expiry(
                    form.fields.get("expires_after[anchor]"), form.fields.get("expires_after[seconds]")
                ),
                cause=cause,
            )
            return file_answer(await keeper.keep(draft, await sink.finish()))


@router.get("")
async def list_files(  # noqa: PLR0917  # FastAPI passes them by name
    caller: ReadCaller,
    gateway: GatewayDep,
    limit: PageLimit = 10_000,
    order: Order = "desc",
    after: Text = None,
    purpose: Text = None,
) -> JsonObject:
    """List the tenant's files, newest first; ``after`` is the last id of the page before.

    A page has 1,000 files at most: `has_more` says whether there are others.
    """
    if after is not None:
        check_id(IdPrefix.FILE, after)
    if purpose is not None:
        check_listed_purpose(purpose)
    shown = page_size(limit)
    found = await gateway.files.keeper.files.page(
        caller.tenant_id, purpose=purpose, order=order, after=after, limit=shown + 1
    )
    return page_answer(found, file_answer, limit=shown)


@router.get("/{file}")
async def get_file(file: str, caller: ReadCaller, gateway: GatewayDep) -> JsonObject:
    """Return one file."""
    results = await gateway.fine_tuning.jobs.results(caller.tenant_id, check_id(IdPrefix.FILE, file))
    return results[0] if results else file_answer(await gateway.files.keeper.get(caller.tenant_id, file))


@router.delete("/{file}")
async def delete_file(file: str, caller: TrainCaller, gateway: GatewayDep) -> JsonObject:
    """Delete a file that no running job reads, and erase its bytes.

    `mint` says which jobs and revisions were trained on it: they stay.
    """
    if job_of_results(check_id(IdPrefix.FILE, file)) is not None:
        raise results_stay(file)
    used = await gateway.fine_tuning.uses.remove(caller.tenant_id, file)
    return {"id": file, "object": "file", "deleted": True, "mint": asdict(used)}


@router.get("/{file}/content", response_class=Response)
async def get_content(file: str, caller: TrainCaller, gateway: GatewayDep) -> Response:
    """Return a file's bytes."""
    results = await gateway.fine_tuning.jobs.results(caller.tenant_id, check_id(IdPrefix.FILE, file))
    if results:
        return Response(results[1], media_type="application/octet-stream")
    keeper = gateway.files.keeper
    found = await keeper.get(caller.tenant_id, file)
    headers = {"content-length": str(found.size_bytes)}
    counted = gateway.downloads.counted(caller.tenant_id)
    return Download(keeper.read(found), counted=counted, headers=headers)
