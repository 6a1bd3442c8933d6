"""What the routes of files share."""

from dataclasses import dataclass

from services.gateway.core.open_requests import OpenRequests
from services.gateway.handlers.file_uploads import UploadKeeper
from services.gateway.handlers.files import FileKeeper


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantFiles:
    """Files, uploads, and how many of each a tenant may have at a time.

    ``arriving``: bodies, which take room on a disk. ``previewing``: previews, which take a trainer's thread.
    """

    files: FileKeeper
    uploads: UploadKeeper
    arriving: OpenRequests
    previewing: OpenRequests
