"""Packages of environments, unmodified, as a user trains in them: added, then a job of three steps each."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.stack import RunningStack, mint, start_stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

HERE = Path(__file__).parent
SUMS = ("verifiers[rg]==0.3.1", "--with", "renderers==0.1.10", "--entry")
ROWS = [
    {
        "prompt": [{"role": "user", "content": f"What is {n} + {n}? Answer after ####."}],
        "reward_spec": {"method": "rule", "ground_truth": str(2 * n)},
    }
    for n in range(1, 9)
]
KINDS = {
    "verifiers": (
        (*SUMS, "verifiers.envs.integrations.reasoninggym_env:ReasoningGymEnv"),
        {"gym": "chain_sum", "num_train_examples": 8, "num_eval_examples": 2},
    ),
    "skyrl": (("skyrl-gym==0.4.0",), {"env_class": "gsm8k_multi_turn", "rows": ROWS}),
    "openenv": ((str(HERE / "openenv_add"), "--entry", "openenv_add:app"), {}),
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack on SmolLM2, whose template has roles."""
    running = start_stack(tmp_path_factory.mktemp("environments"), base="smollm2")
    yield running
    running.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_trains_in_an_unmodified_package(stack: RunningStack, kind: str) -> None:
    package, args = KINDS[kind]
    added = mint("env", "add", kind, *package, "--name", kind, "--dir", stack.folder, seconds=900)
    assert added.returncode == 0, added.stderr
    lora = {"rank": 8, "alpha": 16, "seed": 0}
    stack.post("/policies", {"name": kind, "base": "smollm2", "lora": lora}, status=201)
    env = {"kind": kind, "id": kind, "args": args, "max_turns": 3, "episode_seconds": 120}
    size = {"steps": 3, "prompts_per_step": 2, "group_size": 4, "max_new_tokens": 24, "temperature": 0.9}
    job_id = stack.post("/jobs", {"policy": kind, "env": env, **size}, status=202)["job_id"]
    job = stack.wait_for_end(job_id, seconds=900)
    assert job["step"] == 3, job["reason"]
    assert job["state"] == "succeeded" or job["reason"].startswith("nothing was trained")
    for step in job["steps"]:
        assert step["ratio_max_error"] < 5e-3
        _check_rollouts(stack.get(f"/jobs/{job_id}/rollouts?step={step['step']}"), step)
    _check_evaluation(stack, kind, {**env, "split": "eval"})


def _check_evaluation(stack: RunningStack, policy: str, env: dict[str, Any]) -> None:
    """Check that a run scores the newest revision by the environment's own rewards, the same each time."""
    values = []
    for _ in range(2):
        asked = {"policy": policy, "env": env, "n": 4, "max_new_tokens": 24}
        run = stack.post("/evaluations/run", asked, status=202)
        while (run := stack.get(f"/evaluations/run/{run['run_id']}"))["state"] == "running":
            time.sleep(0.5)
        assert (run["state"], run["scored"]) == ("succeeded", 4), run["reason"]
        assert set(run["episodes"]) <= {"ok", "truncated"}
        rows = stack.get(f"/evaluations/run/{run['run_id']}/rows")
        assert run["value"] == pytest.approx(sum(row["score"] for row in rows) / 4)
        values.append([(row["score"], row["answer"]) for row in rows])
    assert values[0] == values[1]


def _check_rollouts(shown: Any, step: dict[str, Any]) -> None:
    """Check that a step's record has every episode with the environment's own reward."""
    assert shown["step"] == step["step"]
    episodes = shown["episodes"]
    assert len(episodes) == 4
    assert {each["outcome"] for each in episodes} <= {"ok", "truncated"}
    assert all(each["reward"] is not None and each["turns"] >= 1 for each in episodes)
