"""Open a blob store from settings."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from mint_common.blobs.localfs import LocalBlobs
from mint_common.blobs.marker import MarkedBlobs
from mint_common.blobs.port import Blobs
from mint_common.settings import BlobSettings


async def open_blobs(settings: BlobSettings) -> Blobs:
    """Open the blob store that the settings name; the caller closes it."""
    parts = urlsplit(settings.url)
    if parts.scheme == "file":
        return MarkedBlobs(LocalBlobs(Path(unquote(parts.path))))
    # Only here: boto costs every service 26 MB and time to start, in vain where blobs are local files.
    from mint_common.blobs.s3 import open_s3

    opened = await open_s3(
        bucket=parts.netloc,
        prefix=parts.path,
        endpoint=settings.s3_endpoint,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key,
        region=settings.s3_region,
    )
    return MarkedBlobs(opened)
