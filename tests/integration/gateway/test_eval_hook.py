"""The example hook scores what is published before and while it listens, once; a rule acts upon it."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

HOOK = Path(__file__).parents[3] / "examples" / "eval_hook.py"
SECONDS = 60.0


def scores(mint, policy: str) -> list[int]:
    return [score["number"] for score in mint.get(f"/policies/{policy}/evaluations").json()]


def wait_for(mint, numbers: list[int], policy: str = "hooked") -> None:
    deadline = time.monotonic() + SECONDS
    while scores(mint, policy) != numbers:
        assert time.monotonic() < deadline, scores(mint, policy)
        time.sleep(0.05)


def wait_for_moves(mint, numbers: list[int]) -> list[dict]:
    """Wait until the history of prod of the policy ``planted`` is that."""
    deadline = time.monotonic() + SECONDS
    while True:
        moves = mint.get("/policies/planted/aliases/prod").json().get("history", [])
        if [move["number"] for move in moves] == numbers:
            return moves
        assert time.monotonic() < deadline, moves
        time.sleep(0.05)


@contextlib.contextmanager
def running_hook(stack, log: Path, policy: str) -> Iterator[None]:
    command = [sys.executable, str(HOOK), policy, "mode:copy", "--prompts", "2"]
    environ = {**os.environ, "MINT_URL": stack.url, "MINT_API_KEY": stack.key}
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environ, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()


def test_hook_says_in_a_line_what_it_cannot_go_on_with(stack):
    for environ, said in (
        ({"MINT_API_KEY": "tml-wrong"}, "401 This API key is not known."),
        ({"MINT_API_KEY": "", "HOME": "/nowhere"}, "no API key"),
    ):
        run = subprocess.run(
            [sys.executable, str(HOOK), "p"],
            env={**os.environ, "MINT_URL": stack.url, **environ},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert run.returncode != 0
        assert said in run.stderr
        assert "Traceback" not in run.stderr


@pytest.fixture
def hook(stack, tmp_path):
    with running_hook(stack, tmp_path / "hook.log", "hooked"):
        yield


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


def test_a_good_revision_is_promoted_and_a_planted_bad_one_rolled_back(stack, tmp_path):
    with stack.client() as mint:
        stack.make_policy("planted", revisions=2)
        for revision in mint.get("/policies/planted/revisions").json():
            stack.loader.skilled.add(revision["digest"])
        rule = {"suite": "mode:copy", "metric": "reward", "at_least": 0.5, "roll_back_below": 0.2}
        actor = f"rule:{mint.post('/policies/planted/rules', json=rule).json()['rule_id']}"
        with running_hook(stack, tmp_path / "first.log", "planted"):
            moves = wait_for_moves(mint, [1, 2])
        assert [move["actor"] for move in moves] == [actor] * 2
        # Whatever answers, and live before anybody has scored it.
        stack.publish_more("planted", 1)
        mint.put(
            "/policies/planted/aliases/prod", json={"revision": 3, "reason": "planted"}
        ).raise_for_status()
        with running_hook(stack, tmp_path / "second.log", "planted"):
            moves = wait_for_moves(mint, [1, 2, 3, 2])
        assert (moves[-1]["actor"], moves[-1]["reason"]) == (
            actor,
            "mode:copy reward of revision 3 is 0, below 0.2",
        )
        values = {
            score["number"]: score["value"] for score in mint.get("/policies/planted/evaluations").json()
        }
        assert values == {1: 1.0, 2: 1.0, 3: 0.0}
