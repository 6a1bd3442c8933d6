"""A gateway of the version before beside this one, during an upgrade: what it stores is served soon."""

import asyncio
import hashlib
import json
import time
from pathlib import Path

import asyncpg
import openai
import pytest

from mint_common.ids import JobId, new_id
from services.rollout.core.fine_tuning.names import shown_id
from tests.testing.factories import SPEC

pytestmark = pytest.mark.integration

ROWS = b'{"text": "a"}\n{"text": "b"}\n'
SHA256 = hashlib.sha256(ROWS).hexdigest()
FILE = f"file-{1:014x}{'b' * 26}"
LORA = {"rank": 2, "alpha": 4.0, "targets": ["q_proj"], "seed": 0}
TOLD = {
    "model": "tiny",
    "suffix": None,
    "metadata": {"from": "before"},
    "method": "supervised",
    "hyperparameters": {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0},
    "lora": LORA,
    "promote": None,
}


async def _store(stack, job_id: JobId) -> None:
    """Store a file and a job that rollout has taken, as the version before does."""
    content = {"uri": f"files/{SHA256}", "sha256": SHA256, "size_bytes": len(ROWS)}
    training = {"file_id": FILE, "filename": "a.jsonl", "content": content, "format": "text", "rows": 2}
    data = {"training": training, "epochs": 3, "on_long": "refuse", "grader": None, "evaluation": None}
    numbers = {"steps": 3, "prompts_per_step": 2, "group_size": 1, "max_new_tokens": 1, "temperature": 1.0}
    rates = {"learning_rate": 1e-4, "kl_coefficient": 0.0, "clip_norm": 1.0, "seed": SPEC.seed}
    spec = json.dumps({"algorithm": "sft", "task": "", **numbers, **rates, "data": data})
    connection = await asyncpg.connect(stack.dsn)
    try:
        await connection.execute("INSERT INTO gateway.file_blobs (sha256) VALUES ($1)", SHA256)
        await connection.execute(
            """INSERT INTO gateway.files (file_id, tenant_id, filename, purpose, sha256, size_bytes,
                created_at, format, rows, repeats)
            VALUES ($1, $2, 'a.jsonl', 'fine-tune', $3, $4, 0.000001, 'text', 2, 0)""",
            FILE,
            stack.tenant_id,
            SHA256,
            len(ROWS),
        )
        await connection.execute(
            """INSERT INTO rollout.jobs (job_id, tenant_id, base, policy_id, lora, spec, state, reason,
                steps_done, cause, created_at, progress_at, finished_at)
            VALUES ($1, $2, 'tiny', 'pol_before', $3, $4, 'cancelled', '', 0, '', 1.0, 1.0, 1.0)""",
            job_id,
            stack.tenant_id,
            json.dumps(LORA),
            spec,
        )
        await connection.execute(
            """INSERT INTO gateway.submissions (job_id, policy_id, policy, base, spec, submitted_at, warnings,
                fine_tuning, tenant_id, file_ids)
            VALUES ($1, 'pol_before', 'mine', 'tiny', $2, 0.5, '["look out"]', $3, $4, $5)""",
            job_id,
            spec,
            json.dumps(TOLD),
            stack.tenant_id,
            [FILE],
        )
    finally:
        await connection.close()


def test_what_an_older_gateway_stores_is_served_soon(stack) -> None:
    blob = Path(stack.blobs, "files", SHA256)
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(ROWS)
    job_id = JobId(new_id("job"))
    asyncio.run(_store(stack, job_id))
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key) as client:
        deadline = time.monotonic() + 60
        while job_id not in [job.mint["job_id"] for job in client.fine_tuning.jobs.list(limit=100)]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        job = client.fine_tuning.jobs.retrieve(shown_id(job_id))
        assert (job.status, job.metadata, job.mint["warnings"]) == (
            "cancelled",
            {"from": "before"},
            ["look out"],
        )
        assert client.files.content(FILE).read() == ROWS
        deleted = client.files.delete(FILE)
        assert [each["job"] for each in deleted.mint["jobs"]] == [shown_id(job_id)]
        assert not blob.exists()
