"""What the routes of files share."""

from dataclasses import dataclass

from services.gateway.core.open_requests import OpenRequests
from services.gateway.handlers.file_uploads import UploadKeeper
from services.gateway.handlers.files import FileKeeper


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantFiles:
    """Files, uploads, and how many of a tenant's bodies may come at a time: each takes room on a disk."""

    files: FileKeeper
    uploads: UploadKeeper
    arriving: OpenRequests
