"""``/v1/files``: a tenant's files, as OpenAI's API has them; rollout owns them."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response

from mint_common.file_requests import OTHER_PURPOSES, PURPOSES
from mint_common.json_types import JsonObject
from mint_common.runtime.edge_routes import StreamDep
from services.gateway.http.edge.downloads import Download
from services.gateway.http.edge.recording import creates
from services.gateway.http.files.routes import FilesRoute, form_schema
from services.gateway.http.mint.context import JobsDep
from services.gateway.http.mint.forwarding import ReadFineTuning, TrainFineTuning

router = APIRouter(prefix="/v1/files", tags=["files"], route_class=FilesRoute)

_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")

PageLimit = Annotated[int, Query(alias="limit", ge=1, le=10_000)]
Order = Annotated[Literal["asc", "desc"], Query(alias="order")]
After = Annotated[str | None, Query(alias="after", max_length=200)]
_SHOWN: JsonObject = {"enum": [*PURPOSES, *OTHER_PURPOSES, None]}
Purpose = Annotated[str | None, Query(alias="purpose", max_length=200, json_schema_extra=_SHOWN)]
FilePath = Annotated[str, Path(alias="file")]


@router.post(
    "",
    response_model=JsonObject,
    dependencies=[creates("id")],
    openapi_extra=form_schema("file", fields=_FIELDS),
)
async def create_file(stream: StreamDep, files: TrainFineTuning, jobs: JobsDep) -> Response:
    """Upload a file. One for the purpose fine-tune is checked whole, as rows (docs/guides/datasets.md).

    A file with bad rows is refused with 400 `invalid_jsonl`: `errors` has the first 100 problems with their
    lines, `count` says how many there are.
    """
    with jobs.arriving.counted(files.caller.tenant_id):
        return await files.forward_form(stream)


@router.get("", response_model=JsonObject)
async def list_files(
    files: ReadFineTuning,
    _limit: PageLimit = 10_000,
    _order: Order = "desc",
    _after: After = None,
    _purpose: Purpose = None,
) -> Response:
    """List the tenant's files, newest first; ``after`` is the last id of the previous page.

    A page has 1,000 files at most: `has_more` says whether there are others.
    """
    return await files.forward()


@router.get("/{file}", response_model=JsonObject)
async def get_file(_file: FilePath, files: ReadFineTuning) -> Response:
    """Return one file."""
    return await files.forward()


@router.delete("/{file}", response_model=JsonObject)
async def delete_file(_file: FilePath, files: TrainFineTuning) -> Response:
    """Delete a file that no running job reads, and erase its bytes.

    `mint` lists the jobs and revisions that were trained on it; they stay.
    """
    return await files.forward()


@router.get("/{file}/content", response_class=Response)
async def get_content(_file: FilePath, files: TrainFineTuning, jobs: JobsDep) -> Response:
    """Return a file's bytes."""
    found = await files.download()
    counted = jobs.downloads.counted(files.caller.tenant_id)
    return Download(
        found.parts(), counted=counted, headers={"content-length": found.headers["content-length"]}
    )
