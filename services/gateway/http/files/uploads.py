"""``/v1/uploads``: files that come in parts, as OpenAI's API has them; rollout owns them."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from mint_common.file_requests import CompleteBody, UploadBody
from mint_common.json_types import JsonObject
from mint_common.runtime.edge_routes import StreamDep
from services.gateway.http.edge.recording import creates
from services.gateway.http.files.routes import FilesRoute, form_schema
from services.gateway.http.mint.context import JobsDep
from services.gateway.http.mint.forwarding import TrainFineTuning

router = APIRouter(prefix="/v1/uploads", tags=["files"], route_class=FilesRoute)

UploadPath = Annotated[str, Path(alias="upload")]


@router.post("", response_model=JsonObject, dependencies=[creates("id")])
async def create_upload(_body: UploadBody, uploads: TrainFineTuning) -> Response:
    """Create an upload of a file in parts. It accepts parts for an hour."""
    return await uploads.forward()


@router.post(
    "/{upload}/parts",
    response_model=JsonObject,
    dependencies=[creates("id")],
    openapi_extra=form_schema("data"),
)
async def add_part(
    _upload: UploadPath, stream: StreamDep, uploads: TrainFineTuning, jobs: JobsDep
) -> Response:
    """Add a part of at most 64 MiB. Parts may come in any order."""
    with jobs.arriving.counted(uploads.caller.tenant_id):
        return await uploads.forward_form(stream)


@router.post("/{upload}/complete", response_model=JsonObject)
async def complete_upload(
    _upload: UploadPath, _body: CompleteBody, uploads: TrainFineTuning, jobs: JobsDep
) -> Response:
    """Join the parts into a file, which is checked like a file uploaded at once."""
    with jobs.arriving.counted(uploads.caller.tenant_id):
        return await uploads.forward(is_long=True)


@router.post("/{upload}/cancel", response_model=JsonObject)
async def cancel_upload(_upload: UploadPath, uploads: TrainFineTuning) -> Response:
    """Cancel an upload: it accepts no more parts, and stored parts are erased."""
    return await uploads.forward()
