"""Rows of a hub, through the real `datasets` against a hub of our own; later from its cache."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.standalone.model_hub import running_hub

pytestmark = pytest.mark.integration
ROWS = [{"instruction": "Add.", "input": "2, 2", "output": "4", "topic": None}] * 3
CHILD = """
import json, sys
from mint_client.adapters.rows_source import open_source
for name in sys.argv[1:]:
    try:
        print(json.dumps(list(open_source(name).rows)))
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))
"""


def read(*names: str, **environ: str) -> list[object]:
    """Return the rows of each source, or what was refused, as a process of its own reads them."""
    environ = {**os.environ, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", **environ}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *names], env=environ, capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_split_is_streamed_and_what_the_hub_refuses_is_told(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list(ROWS).to_parquet(tmp_path / "repository" / "train.parquet")
    with running_hub() as hub:
        hub.repository("org/open").commit(tmp_path / "repository")
        hub.repository("org/gated").commit(tmp_path / "repository")
        hub.repository("org/gated").gated = True
        found, missing, gated, split = read(
            *("hf:org/open:train", "hf:org/none:train", "hf:org/gated:train", "hf:org/open:tset"),
            HF_ENDPOINT=hub.url,
            HF_HOME=str(tmp_path / "home"),
        )
    assert found == [[number, row] for number, row in enumerate(ROWS, 1)]
    assert "hf:org/none:train: the hub shows no such data set: check the name" in str(missing)
    assert "hf:org/gated:train: it is gated: accept its terms" in str(gated)
    assert "hf:org/open:tset: Bad split: tset. Available splits: ['train']" in str(split)


def test_a_cached_data_set_is_read_offline(tmp_path: Path) -> None:
    from datasets import load_dataset

    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    load_dataset("json", data_files={"train": str(file)}, cache_dir=str(tmp_path / "made"))
    (made,) = (tmp_path / "made/json").glob("*/*/*/")
    cached = tmp_path / "home/datasets/org___open/default/0.0.0" / made.name
    cached.parent.mkdir(parents=True)
    made.rename(cached)
    (cached / "json-train.arrow").rename(cached / "open-train.arrow")
    found, missing = read(
        "hf:org/open:train", "hf:org/none:train", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "home")
    )
    assert found == [[number, row] for number, row in enumerate(ROWS, 1)]
    assert "hf:org/none:train: Couldn't" in str(missing)
