"""A deleted file leaves nothing of its rows: neither text nor tokens, in no blob and in no table."""

import asyncio
import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from e2e.stack import RunningStack

from services.standalone.adapters.postgres import postgres_dsn

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

SECRET = "kqzjxvwy"
FAILING = {
    "type": "python",
    "name": "failing",
    "source": "def grade(sample, item):\n    raise ValueError(str(item))\n",
}
TABLES = """
    SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
    WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
"""


def answered(word: str, number: int) -> dict[str, Any]:
    asked = {"role": "user", "content": f"{word}{number}="}
    return {"messages": [asked, {"role": "assistant", "content": word}]}


def asked_for(word: str, number: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"{word}{number}="}], "wanted": word}


def upload(stack: RunningStack, word: str, row: Callable[[str, int], dict[str, Any]] = answered) -> str:
    rows = [row(word, number) for number in range(16)]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    sent = stack.http.post("/v1/files", files={"file": ("rows.jsonl", data)}, data={"purpose": "fine-tune"})
    assert sent.status_code == 200, sent.text
    file_id: str = sent.json()["id"]
    return file_id


def train(stack: RunningStack, policy: str, file_id: str) -> Any:
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 4}}}
    body = {
        "model": policy,
        "training_file": file_id,
        "method": method,
        "mint": {"evaluation": {"holdout": 0.25, "every": 1}},
    }
    made = stack.http.post("/v1/fine_tuning/jobs", json=body)
    assert made.status_code == 200, made.text
    job = stack.wait_for_end(made.json()["id"])
    assert job["state"] == "succeeded", job
    return job


def evaluate(stack: RunningStack, policy: str, file_id: str) -> str:
    """Run an evaluation whose grader quotes the rows that it fails on."""
    asked = {"policy": policy, "file": file_id, "grader": FAILING, "max_new_tokens": 8}
    run = stack.post("/evaluations/run", asked, status=202)
    deadline = time.monotonic() + 120
    while run["state"] == "running":
        assert time.monotonic() < deadline, run
        time.sleep(0.2)
        run = stack.get(f"/evaluations/run/{run['run_id']}")
    assert run["state"] == "failed", run
    assert SECRET in run["reason"]
    run_id: str = run["run_id"]
    return run_id


def traces_of(word: str) -> list[bytes]:
    """Return a word as text and as tokens of the tiny base, which numbers bytes from "!" on from 3 on."""
    tokens = [byte - ord("!") + 3 for byte in word.encode()]
    return [word.encode(), bytes(tokens), struct.pack(f"<{len(tokens)}i", *tokens)]


def blobs_with(folder: Path, word: str) -> list[str]:
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            data = path.read_bytes() if path.is_file() else b""
        except FileNotFoundError:  # erased meanwhile
            continue
        if any(trace in data for trace in traces_of(word)):
            found.append(str(path.relative_to(folder)))
    return found


def tables_with(stack: RunningStack, word: str) -> list[str]:
    async def search() -> list[str]:
        dsn = postgres_dsn(stack.folder / "postgres", stack.parts()["postgres"]["port"])
        connection = await asyncpg.connect(dsn)
        found = []
        for row in await connection.fetch(TABLES):
            for trace in (word, *(trace.hex() for trace in traces_of(word))):
                query = f"SELECT count(*) FROM {row['name']} AS one WHERE one::text LIKE $1"
                if await connection.fetchval(query, f"%{trace}%"):
                    found.append(row["name"])
        await connection.close()
        return found

    return asyncio.run(search())


def test_a_deleted_file_leaves_nothing_and_its_policy_goes_on(stack: RunningStack) -> None:
    stack.make_policy("erased")
    blobs = stack.folder / "blobs"
    file_id, other_id = upload(stack, SECRET), upload(stack, "otherword")
    train(stack, "erased", other_id)
    job = train(stack, "erased", file_id)
    # Before what it trained is in a snapshot: it is computed again of the records, which are still there.
    before = stack.parts()["trainer-tiny"]["pid"]
    stack.kill("trainer-tiny")
    deadline = time.monotonic() + 120
    while stack.parts()["trainer-tiny"]["pid"] == before:  # mint up has not seen its end yet
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stack.wait_until_ready()
    asked_id = upload(stack, SECRET, asked_for)
    run_id = evaluate(stack, "erased", asked_id)
    prefix = f"waves/{job['policy_id']}/{job['job_id']}/"
    assert "rollout.evaluation_rows" in tables_with(stack, SECRET)
    made = [path for path in blobs_with(blobs, SECRET) if path.startswith(prefix)]
    assert {path.rpartition(".")[2] for path in made} == {"prompts", "rec"}
    others = blobs_with(blobs, "otherword")

    asked, removed = [stack.http.delete(f"/v1/files/{each}") for each in (asked_id, file_id)]
    assert (asked.status_code, removed.status_code) == (200, 200), (asked.text, removed.text)
    told = removed.json()["mint"]
    assert [f"erased@{step['revision']['number']}" for step in job["steps"]] == told["revisions"][::-1]
    deadline = time.monotonic() + 180
    while left := [*blobs_with(blobs, SECRET), *tables_with(stack, SECRET)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.5)
    assert blobs_with(blobs, "otherword") == others
    assert "erased" in stack.get(f"/evaluations/run/{run_id}")["reason"]
    assert stack.get(f"/evaluations/run/{run_id}/rows") == []
    assert stack.job(job["job_id"])["state"] == "succeeded"
    train(stack, "erased", other_id)
