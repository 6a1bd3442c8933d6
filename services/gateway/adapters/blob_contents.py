"""Stored bytes, read in parts and checked at the end."""

import hashlib
from collections.abc import AsyncIterator

from mint_common.blobs.port import Blobs
from mint_common.claims import Claim
from mint_common.errors import BlobCorrupt

CHUNK_BYTES = 4 << 20


class BlobContents:
    """See `services.gateway.ports.files.Contents`."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def read(self, claim: Claim) -> AsyncIterator[bytes]:
        """Yield a blob in parts."""
        proof = hashlib.sha256()
        for start in range(0, claim.size_bytes, CHUNK_BYTES):
            size = min(CHUNK_BYTES, claim.size_bytes - start)
            part = await self._blobs.get_range(claim, start=start, size=size)
            proof.update(part)
            yield part
        if proof.hexdigest() != claim.sha256:
            raise BlobCorrupt(uri=claim.uri, expected=claim.sha256, found=proof.hexdigest())
