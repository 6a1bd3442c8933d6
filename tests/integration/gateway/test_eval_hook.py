"""The example hook scores what is published before and while it listens, once; a rule acts upon it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

HOOK = Path(__file__).parents[3] / "examples" / "eval_hook.py"
SECONDS = 60.0


def scores(mint) -> list[int]:
    return [score["number"] for score in mint.get("/policies/hooked/evaluations").json()]


def wait_for(mint, numbers: list[int]) -> None:
    deadline = time.monotonic() + SECONDS
    while scores(mint) != numbers:
        assert time.monotonic() < deadline, scores(mint)
        time.sleep(0.05)


@pytest.fixture
def hook(stack, tmp_path):
    log = tmp_path / "hook.log"
    command = [sys.executable, str(HOOK), "hooked", "mode:copy", "--prompts", "2"]
    environ = {**os.environ, "MINT": stack.url, "KEY": stack.key}
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environ, stdout=file, stderr=subprocess.STDOUT)
    yield process
    process.kill()
    process.wait()
    assert "Traceback" not in log.read_text()


def test_new_revisions_are_scored_once_and_promoted_by_the_rule(stack, hook):
    with stack.client() as mint:
        stack.make_policy("hooked", revisions=2)
        rule = {"suite": "mode:copy", "metric": "reward", "at_least": -100.0}
        rule_id = mint.post("/policies/hooked/rules", json=rule).json()["rule_id"]
        wait_for(mint, [1, 2])
        stack.publish_more("hooked", 1)
        wait_for(mint, [1, 2, 3])
        deadline = time.monotonic() + SECONDS
        while mint.get("/policies/hooked/aliases/prod").json().get("revision", {}).get("number") != 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        history = mint.get("/policies/hooked/aliases/prod").json()["history"]
        assert {move["actor"] for move in history} == {f"rule:{rule_id}"}
