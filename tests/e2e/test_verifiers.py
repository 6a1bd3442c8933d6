"""verifiers 0.4, unmodified: its eval client over chat, its train client over tokens in and tokens out."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from clients.environments import ROOT, make_environment
from e2e.stack import RunningStack

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1800)]

TINY = ROOT / "bases/tiny"
TEMPERATURE, SEED = 0.7, 7


@pytest.fixture(scope="module")
def python() -> Path:
    """An environment with verifiers, whose pins do not fit into ours."""
    return make_environment("verifiers-0.4.0", "verifiers==0.4.0", "renderers==0.1.12")


def traces(python: Path, stack: RunningStack, kind: str) -> list[dict[str, Any]]:
    """Run the taskset with one of the clients; return its traces, none of which has an error."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MINT_")}
    driver = ROOT / "tests/clients/drive_verifiers.py"
    base_url = f"http://127.0.0.1:{stack.port}/v1"
    done = subprocess.run(
        [str(part) for part in (python, driver, kind, base_url, "tiny", TINY, TEMPERATURE, SEED)],
        env={
            **own,
            "MINT_API_KEY": stack.api_key,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # its harness runs `uv`
        },
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [trace["errors"] for trace in found] == [[], []]
    assert [trace["reward"] for trace in found] == [1.0, 1.0]
    return found


def test_the_train_client_has_exactly_what_the_engine_sampled(python: Path, stack: RunningStack) -> None:
    for trace in traces(python, stack, "train"):
        prompt, answer = trace["nodes"]
        assert (prompt["sampled"], answer["sampled"]) == (False, True)
        assert answer["mask"] == [True] * len(answer["token_ids"])
        sampling = {"max_tokens": 8, "temperature": TEMPERATURE, "seed": SEED, "logprobs": 1}
        asked = {"model": "tiny", "token_ids": prompt["token_ids"], "sampling_params": sampling}
        again = stack.http.post("/inference/v1/generate", json=asked)
        assert again.status_code == 200, again.text
        assert again.headers["x-mint-revision"] == again.json()["system_fingerprint"] == "base:tiny"
        (choice,) = again.json()["choices"]
        assert answer["token_ids"] == choice["token_ids"]
        logprobs = [entry["logprob"] for entry in choice["logprobs"]["content"]]
        assert answer["logprobs"] == pytest.approx(logprobs, abs=1e-5)


def test_the_eval_client_gets_its_answers(python: Path, stack: RunningStack) -> None:
    for trace in traces(python, stack, "eval"):
        assert [node["sampled"] for node in trace["nodes"]] == [False, True]
