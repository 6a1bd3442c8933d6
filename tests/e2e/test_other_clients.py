"""Clients that do not fit into this environment, each in one of its own, against a running stack."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from clients.environments import ROOT, make_environment
from e2e.stack import RunningStack

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1800)]

CLIENTS = ROOT / "tests/clients"
BASE = ROOT / "bases/tiny"
LANGCHAIN, INSPECT, LM_EVAL = "langchain-openai==1.7.4", "inspect-ai==0.3.285", "lm-eval[api,hf]==0.4.13"
ROWS = 24
BLANKS = ("Ġ", "Ċ", "ĉ", "č")
"""Tokens of white space, which an untrained model puts between the parts of JSON without end."""


def run(python: Path, *command: object, key: str, folder: Path) -> str:
    """Run a client; return what it printed."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MINT_", "OPENAI_"))}
    done = subprocess.run(
        [str(python), *map(str, command)],
        cwd=folder,
        env={**own, "OPENAI_API_KEY": key, "HF_HOME": str(folder / "hub"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-4000:]
    return done.stdout


def blank_tokens() -> list[int]:
    vocabulary = json.loads((BASE / "tokenizer.json").read_text())["model"]["vocab"]
    return [vocabulary[name] for name in BLANKS if name in vocabulary]


@pytest.mark.client("langchain-openai 1.7.4", "ChatOpenAI: whole, streamed, a tool, structured output")
def test_langchain(stack: RunningStack, tmp_path: Path) -> None:
    python = make_environment("langchain-openai-1.7.4", LANGCHAIN)
    url = str(stack.http.base_url).rstrip("/")
    command = (CLIENTS / "langchain_chat.py", url, stack.api_key, "tiny", *blank_tokens())
    seen = json.loads(run(python, *command, key=stack.api_key, folder=tmp_path))
    assert seen["text"] == seen["streamed"] != ""
    assert 0 < seen["tokens"] <= 100
    assert seen["called"] == "weather"
    assert seen["args"]["city"] in {"Rome", "Oslo"}
    assert seen["parsed"] in {"Rome", "Oslo"}


@pytest.mark.client("inspect-ai 0.3.285", "an evaluation with a tool")
def test_inspect(stack: RunningStack, tmp_path: Path) -> None:
    python = make_environment("inspect-ai-0.3.285", INSPECT, "openai>=2")
    url = str(stack.http.base_url).rstrip("/")
    command = (CLIENTS / "inspect_tools.py", url, stack.api_key, "tiny", tmp_path / "logs", *blank_tokens())
    seen = json.loads(run(python, *command, key=stack.api_key, folder=tmp_path).splitlines()[-1])
    assert seen["status"] == "success", seen
    assert "tool" in seen["roles"]


@pytest.mark.client(
    "lm-eval 0.4.13", "local-completions: log-likelihoods and generate_until, as transformers"
)
def test_lm_eval_finds_what_transformers_finds(stack: RunningStack, tmp_path: Path) -> None:
    python = make_environment("lm-eval-0.4.13", LM_EVAL, "torch==2.13.0")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row(n)) + "\n" for n in range(ROWS)))
    url = f"{str(stack.http.base_url).rstrip('/')}/v1/completions"
    served = scores(
        python,
        "local-completions",
        f"model=tiny,base_url={url},tokenizer={BASE},num_concurrent=4,max_length=256,max_retries=1",
        key=stack.api_key,
        folder=tmp_path,
    )
    direct = scores(python, "hf", f"pretrained={BASE},dtype=float32", key=stack.api_key, folder=tmp_path)
    assert len(served) == len(direct) == 2 * ROWS
    for name, values in direct.items():
        for ours, theirs in zip(served[name], values, strict=True):
            if isinstance(theirs, str):
                assert ours == theirs
            else:
                assert ours == pytest.approx(theirs, abs=1e-3)


def row(n: int) -> dict[str, Any]:
    return {"question": f"f {n} {n + 1} {n + 2}=", "choices": [f"{n}", f"{n + 3}", "abc"], "answer": n % 3}


def scores(python: Path, model: str, args: str, *, key: str, folder: Path) -> dict[str, list[float | str]]:
    """Return what a model scores: log-likelihoods and texts by task and row."""
    out = folder / model
    tasks = ("--tasks", "mint_pairs,mint_copies", "--include_path", CLIENTS / "lm_eval")
    options = ("--output_path", out, "--log_samples", "--batch_size", "1", "--device", "cpu")
    run(
        python,
        "-m",
        "lm_eval",
        "--model",
        model,
        "--model_args",
        args,
        *tasks,
        *options,
        key=key,
        folder=folder,
    )
    found: dict[str, list[float | str]] = {}
    for file in out.rglob("samples_*.jsonl"):
        task = file.name.split("_20")[0]
        for line in file.read_text().splitlines():
            sample = json.loads(line)
            responses = [each[0] for each in sample["resps"]]
            values = [each[0] if isinstance(each, list) else each for each in responses]
            found[f"{task} {sample['doc_id']}"] = [
                value if task.endswith("copies") else float(value) for value in values
            ]
    return found
