"""``/mint/v1/files``: details of a file, and a preview of how its rows are trained."""

from fastapi import APIRouter, Response

from mint_common.file_requests import FileView, Preview, PreviewBody
from services.gateway.http.edge.routes import GatewayRoute
from services.gateway.http.files.files import FilePath
from services.gateway.http.mint.forwarding import ReadJobs, TrainJobs

router = APIRouter(prefix="/mint/v1/files", tags=["files"], route_class=GatewayRoute)


@router.get("/{file}", response_model=FileView)
async def get_file_view(_file: FilePath, files: ReadJobs) -> Response:
    """Return the details of a file."""
    return await files.forward()


@router.post("/{file}/preview", response_model=Preview)
async def preview_file(_file: FilePath, _body: PreviewBody, files: TrainJobs) -> Response:
    """Return rows as a base's trainer trains them: tokens, and which of them are trained.

    Begins at ``first_line``. Needs a trainer of the base.
    """
    return await files.forward(is_long=True)
