"""Storage of rollout records."""

from mint_common.blobs.port import Blobs
from mint_common.claims import Claim
from mint_common.ids import JobId, PolicyId
from mint_common.records import WaveRecord, encode_blob, wave_blob_key


async def store_record(
    blobs: Blobs, record: WaveRecord, *, policy_id: PolicyId, job_id: JobId, name: str
) -> Claim:
    """Store a record of a job under a key of its own."""
    data = encode_blob(record)
    return await blobs.put_new(wave_blob_key(policy_id, job_id, name=name, kind="rec", data=data), data)
