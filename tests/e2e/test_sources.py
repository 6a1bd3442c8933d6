"""`mint train` on data as people have it: a Parquet file, a table with other column names, a hub's split."""

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from e2e.stack import JOB_SECONDS, RunningStack, mint

from tests.integration.standalone.model_hub import running_hub

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ALPACA = [
    {"instruction": "Say the letters.", "input": f"{first}{second}", "output": f"{second}{first}", "id": at}
    for at, (first, second) in enumerate(zip("abcdefgh", "hgfedcba", strict=True))
]
WISH = ("--base", "tiny", "--epochs", 1, "--batch-size", 4)


def train(stack: RunningStack, source: object, *wish: object, **environ: str) -> tuple[str, Any]:
    """Return what a person is told, and the job as the gateway has it."""
    url = str(stack.http.base_url).rstrip("/")
    env = {**os.environ, "MINT_URL": url, "MINT_API_KEY": stack.api_key, **environ}
    done = mint("train", source, *WISH, *wish, seconds=JOB_SECONDS, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"job_[a-z2-7]{26}|ftjob-[a-z2-7]{26}", done.stdout)
    assert found, done.stdout
    return done.stdout + done.stderr, stack.job(found[0].replace("ftjob-", "job_"))


def test_parquet_in_alpacas_layout(stack: RunningStack, tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list(ALPACA).to_parquet(tmp_path / "rows.parquet")
    told, job = train(stack, tmp_path / "rows.parquet")
    assert "left out: id" in told
    assert (job["state"], len(job["steps"])) == ("succeeded", 2)


def test_a_packed_table_whose_columns_are_named(stack: RunningStack, tmp_path: Path) -> None:
    lines = ["ask;tell", *(f"{row['input']};{row['output']}" for row in ALPACA)]
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    _told, job = train(stack, tmp_path / "rows.csv.gz", "--map", "prompt=ask,completion=tell")
    assert (job["state"], len(job["steps"])) == ("succeeded", 2)


def test_a_split_of_a_hub(stack: RunningStack, tmp_path: Path) -> None:
    file = tmp_path / "repository/train.jsonl"
    file.parent.mkdir()
    chats = [
        {"conversations": [{"from": "human", "value": row["input"]}, {"from": "gpt", "value": row["output"]}]}
        for row in ALPACA
    ]
    file.write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    with running_hub() as hub:
        hub.repository("org/letters").commit(file.parent)
        places = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        told, job = train(stack, "hf:org/letters:train", **places, HF_HUB_DISABLE_XET="1")
    assert "ShareGPT" in told
    assert (job["state"], len(job["steps"])) == ("succeeded", 2)
