"""``/v1/uploads``: files that come in parts, as OpenAI's API has them."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fastapi import APIRouter, Request
from pydantic import Field

from mint_common.json_types import JsonObject
from mint_common.runtime.edge_routes import StreamDep
from services.gateway.core.examples import body_config
from services.gateway.core.files.answers import part_answer, upload_answer
from services.gateway.core.files.records import (
    PART_BYTES,
    FileDraft,
    IdPrefix,
    check_expiry,
    check_filename,
    check_id,
    check_purpose,
)
from services.gateway.http.edge.context import GatewayDep, TrainCaller
from services.gateway.http.edge.recording import RepeatableDep, creates
from services.gateway.http.files.forms import form_schema, read_form
from services.gateway.http.files.routes import FilesRoute

router = APIRouter(prefix="/v1/uploads", tags=["files"], route_class=FilesRoute)

Name = Annotated[str, Field(max_length=255)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiresAfter:
    """How long a file is kept."""

    anchor: Annotated[str, Field(max_length=40)]
    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadBody:
    """A file that is going to come in parts."""

    __pydantic_config__: ClassVar[JsonObject] = body_config(
        {"filename": "train.jsonl", "purpose": "fine-tune", "bytes": 4096, "mime_type": "application/jsonl"}
    )

    filename: Name
    purpose: Name
    bytes: int
    mime_type: Annotated[str, Field(max_length=255, pattern=r"^[^\x00]*$")]
    expires_after: ExpiresAfter | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteBody:
    """The parts in their order, and the md5 of the whole in hexadecimal if it is to be compared."""

    __pydantic_config__: ClassVar[JsonObject] = body_config({"part_ids": ["part_2q3vnj5o6pmewm2ht6yq4x7k5a"]})

    part_ids: Annotated[tuple[Annotated[str, Field(max_length=100)], ...], Field(max_length=1000)]
    md5: Annotated[str | None, Field(max_length=32)] = None


@router.post("", dependencies=[creates("id")])
async def create_upload(
    body: UploadBody, caller: TrainCaller, gateway: GatewayDep, cause: RepeatableDep
) -> JsonObject:
    """Begin a file that comes in parts. It takes parts for an hour."""
    after = body.expires_after
    draft = FileDraft(
        tenant_id=caller.tenant_id,
        filename=check_filename(body.filename),
        purpose=check_purpose(body.purpose),
        expires_after_seconds=None if after is None else check_expiry(after.anchor, after.seconds),
        cause=cause,
    )
    created = await gateway.files.uploads.create(draft, size_bytes=body.bytes, mime_type=body.mime_type)
    return upload_answer(created, None)


@router.post("/{upload}/parts", dependencies=[creates("id")], openapi_extra=form_schema("data"))
async def add_part(  # noqa: PLR0917  # FastAPI passes them by name
    upload: str,
    request: Request,
    stream: StreamDep,
    caller: TrainCaller,
    gateway: GatewayDep,
    cause: RepeatableDep,
) -> JsonObject:
    """Add a part of at most 64 MiB. Parts may come in any order."""
    uploads = gateway.files.uploads
    found = await uploads.pending(caller.tenant_id, check_id(IdPrefix.UPLOAD, upload))
    with gateway.files.arriving.counted(caller.tenant_id):
        async with uploads.keeper.spool.open(caller.tenant_id) as sink:
            await read_form(request, stream, sink, file_field="data", limit_bytes=PART_BYTES)
            return part_answer(await uploads.add_part(found, await sink.finish(), cause=cause))


@router.post("/{upload}/complete")
async def complete_upload(
    upload: str, body: CompleteBody, caller: TrainCaller, gateway: GatewayDep
) -> JsonObject:
    """Put the parts together as a file, which is checked as one that comes whole."""
    with gateway.files.arriving.counted(caller.tenant_id):
        completed, file = await gateway.files.uploads.complete(
            caller.tenant_id, check_id(IdPrefix.UPLOAD, upload), body.part_ids, md5=body.md5
        )
    return upload_answer(completed, file)


@router.post("/{upload}/cancel")
async def cancel_upload(upload: str, caller: TrainCaller, gateway: GatewayDep) -> JsonObject:
    """Give an upload up: no parts are taken any more, and those there are erased."""
    cancelled = await gateway.files.uploads.cancel(caller.tenant_id, check_id(IdPrefix.UPLOAD, upload))
    return upload_answer(cancelled, None)
