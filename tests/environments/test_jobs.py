"""Packages of environments, unmodified, as a user trains in them: added, then a job of three steps each."""

import os
import time
from collections.abc import Iterator
from importlib.metadata import distributions
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
    "verifiers-v1": (
        (str(HERE / "verifiers_add"),),
        {"taskset": {"n": 8, "task": {"with_tool": True}}, "splits": {"eval": {"taskset": {"begin": 50}}}},
    ),
    "skyrl": (("skyrl-gym==0.4.0",), {"env_class": "gsm8k_multi_turn", "rows": ROWS}),
    "openenv": ((str(HERE / "openenv_add"), "--entry", "openenv_add:app"), {}),
    "nemogym": (("nemo-gym==0.4.0", "--python", "3.13"), {"server": "example_session_state_mgmt"}),
    "tinker": (
        (
            str(HERE / "tinker_add"),
            *(("--with", "torch==2.13.0+cpu") if os.environ.get("PIP_FIND_LINKS") else ()),
            "--entry",
            "tinker_add:groups",
        ),
        {"n": 8},
    ),
}
GROUPS = {"tinker": 2}
"""Sizes of groups where the environment has its own."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack on SmolLM2, whose template has roles."""
    running = start_stack(tmp_path_factory.mktemp("environments"), base="smollm2")
    yield running
    running.stop()


@pytest.mark.parametrize("name", KINDS)
def test_a_job_trains_in_an_unmodified_package(stack: RunningStack, name: str) -> None:
    package, args = KINDS[name]
    kind, group_size, own = name.partition("-")[0], GROUPS.get(name, 4), installed()
    added = mint("env", "add", kind, *package, "--name", name, "--dir", stack.folder, seconds=900)
    assert added.returncode == 0, added.stderr
    assert installed() == own, "MinT's packages stay as they are"
    lora = {"rank": 8, "alpha": 16, "seed": 0}
    stack.post("/policies", {"name": name, "base": "smollm2", "lora": lora}, status=201)
    env = {"kind": kind, "id": name, "args": args, "max_turns": 3, "episode_seconds": 120}
    size = {
        "steps": 3,
        "prompts_per_step": 2,
        "group_size": group_size,
        "max_new_tokens": 24,
        "temperature": 0.9,
    }
    job_id = stack.post("/jobs", {"policy": name, "env": env, **size}, status=202)["job_id"]
    job = stack.wait_for_end(job_id, seconds=900)
    assert job["step"] == 3, job["reason"]
    assert job["state"] == "succeeded" or job["reason"].startswith("nothing was trained")
    for step in job["steps"]:
        assert step["ratio_max_error"] < 5e-3
        _check_rollouts(stack.get(f"/jobs/{job_id}/rollouts?step={step['step']}"), step, group_size)
    _check_evaluation(stack, name, {**env, "split": "eval"}, samples=GROUPS.get(name, 1))


def installed() -> list[tuple[str, str]]:
    """Return the packages of MinT's own venv."""
    return sorted((each.name, each.version) for each in distributions())


def _check_evaluation(stack: RunningStack, policy: str, env: dict[str, Any], *, samples: int) -> None:
    """Check that a run scores the newest revision by the environment's own rewards, the same each time."""
    values = []
    for _ in range(2):
        asked = {"policy": policy, "env": env, "n": 4, "samples": samples, "max_new_tokens": 24}
        run = stack.post("/evaluations/run", asked, status=202)
        while (run := stack.get(f"/evaluations/run/{run['run_id']}"))["state"] == "running":
            time.sleep(0.5)
        assert (run["state"], run["scored"]) == ("succeeded", 4), run["reason"]
        assert set(run["episodes"]) <= {"ok", "truncated"}
        assert sum(run["episodes"].values()) == 4 * samples
        rows = stack.get(f"/evaluations/run/{run['run_id']}/rows")
        assert run["value"] == pytest.approx(sum(row["score"] for row in rows) / 4)
        values.append([(row["score"], row["answer"]) for row in rows])
    assert values[0] == values[1]


def _check_rollouts(shown: Any, step: dict[str, Any], group_size: int) -> None:
    """Check that a step's record has every episode with the environment's own reward."""
    assert shown["step"] == step["step"]
    episodes = shown["episodes"]
    assert len(episodes) == group_size
    assert {each["outcome"] for each in episodes} <= {"ok", "truncated"}
    assert all(each["reward"] is not None and each["turns"] >= 1 for each in episodes)
