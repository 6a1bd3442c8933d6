"""Storage of rollout records."""

import hashlib

from mint_common.blobs.port import Blobs
from mint_common.claims import Claim
from mint_common.ids import JobId, PolicyId
from mint_common.records import WaveRecord, encode_blob, wave_blobs


async def store_record(
    blobs: Blobs, record: WaveRecord, *, policy_id: PolicyId, job_id: JobId, name: str
) -> Claim:
    """Store a record of a job under a key of its own.

    The key has the bytes' digest: a wave that is sampled twice, with other answers, never replaces a record
    whose claim was committed.
    """
    data = encode_blob(record)
    key = f"{wave_blobs(policy_id, job_id)}{name}-{hashlib.sha256(data).hexdigest()}.rec"
    return await blobs.put_new(key, data)
