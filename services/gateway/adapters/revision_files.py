"""The files of stored adapters, read in bounded memory."""

import tarfile
from collections.abc import AsyncIterator, Mapping

from mint_common.adapters_format import fetch_manifest
from mint_common.blobs.checked import read_parts
from mint_common.blobs.port import Blobs
from mint_common.claims import Claim
from mint_common.model_files import CONFIG_FILE, WEIGHTS_FILE


class BlobRevisionFiles:
    """Reads files of revisions. Raises BlobMissing, BlobCorrupt; both also within a stream."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def find(self, manifest: Claim) -> Mapping[str, Claim]:
        """Return the files of PEFT's format, by name."""
        found = await fetch_manifest(self._blobs, manifest)
        prefix = manifest.uri.rpartition("/")[0]
        return {
            name: Claim(uri=f"{prefix}/{name}", sha256=proof.sha256, size_bytes=proof.size_bytes)
            for name in (CONFIG_FILE, WEIGHTS_FILE)
            for proof in (found.files[name],)
        }

    def read(self, claim: Claim) -> AsyncIterator[bytes]:
        """Yield a file in parts."""
        return read_parts(self._blobs, claim)

    async def read_tar(self, files: Mapping[str, Claim]) -> AsyncIterator[bytes]:
        """Yield a plain tar of files: the same bytes every time."""
        for name, claim in files.items():
            member = tarfile.TarInfo(name)
            member.size = claim.size_bytes
            yield member.tobuf(tarfile.USTAR_FORMAT)
            async for part in self.read(claim):
                yield part
            yield bytes(-claim.size_bytes % tarfile.BLOCKSIZE)
        yield bytes(2 * tarfile.BLOCKSIZE)

    def tar_bytes(self, files: Mapping[str, Claim]) -> int:
        """Return the size of the tar: a header and whole blocks of each file, and two blocks at its end."""
        blocks = [1 + -(-claim.size_bytes // tarfile.BLOCKSIZE) for claim in files.values()]
        return (sum(blocks) + 2) * tarfile.BLOCKSIZE
