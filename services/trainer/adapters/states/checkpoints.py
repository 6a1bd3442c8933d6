"""Checkpoints in the blob store: ``checkpoints/<policy>/<step>-<wave>/<start of sha256>.safetensors``."""

import hashlib

from mint_common.blobs.port import Blobs
from mint_common.claims import Claim
from mint_common.ids import PolicyId, WaveId


class BlobCheckpoints:
    """`CheckpointStore` over a blob store."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def put(self, policy_id: PolicyId, *, step: int, wave_id: WaveId, data: bytes) -> Claim:
        """Store a checkpoint under an address of its own bytes."""
        name = hashlib.sha256(data).hexdigest()[:16]
        return await self._blobs.put(f"{_prefix(policy_id)}{step}-{wave_id}/{name}.safetensors", data)

    async def get(self, claim: Claim) -> bytes:
        """Return a checkpoint, checked."""
        return await self._blobs.get(claim)

    async def delete(self, claim: Claim) -> None:
        """Remove a checkpoint."""
        await self._blobs.delete(claim.uri)

    async def prune(self, policy_id: PolicyId, *, below_step: int) -> None:
        """Remove those of earlier steps; those of later ones may be another trainer's, not yet committed."""
        prefix = _prefix(policy_id)
        keys = [key async for key in self._blobs.list(prefix)]
        for key in keys:
            if int(key.removeprefix(prefix).partition("-")[0]) < below_step:
                await self._blobs.delete(key)


def _prefix(policy_id: PolicyId) -> str:
    return f"checkpoints/{policy_id}/"
