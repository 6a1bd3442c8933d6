"""Packages of environments, unmodified: installed by `mint env add`, their episodes run against a door."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mint_client.cli import app
from mint_common.errors import InvalidField
from mint_common.events import EnvironmentKind, EnvironmentSpec
from mint_common.ids import TenantId
from services.rollout.adapters.environments.pool import EnvironmentLimits
from services.rollout.adapters.environments.workers import EnvironmentHost, open_environments
from services.rollout.core.environment import EpisodeReport
from tests.integration.rollout.environment_rig import episode, open_door

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TENANT = TenantId("ten_a")
EXAMPLES = Path(__file__).parents[2] / "examples"
Added = Callable[..., Path]


@pytest.fixture
def added(tmp_path: Path) -> Iterator[Added]:
    """Installs environments into a state folder, and returns the folder of environments."""

    def add(*arguments: str) -> Path:
        result = CliRunner().invoke(app, ["env", "add", *arguments, "--dir", str(tmp_path)])
        assert result.exit_code == 0, result.exception
        return tmp_path / "envs"

    yield add
    shutil.rmtree(tmp_path / "envs")  # a gigabyte


def spec_of(kind: EnvironmentKind, name: str, args: dict[str, Any]) -> EnvironmentSpec:
    """Return the settings of an environment."""
    return EnvironmentSpec(
        kind=kind, id=name, args=args, split="train", max_turns=3, episode_seconds=60.0, min_group=1
    )


def host_of(folder: Path, door: Path) -> EnvironmentHost:
    """Return how environments run: confined, with a door."""
    return EnvironmentHost(
        folder=folder,
        door=str(door),
        limits=EnvironmentLimits(workers=1, calls=16, memory_bytes=4 << 30),
        is_confined=True,
        call_seconds=300.0,
    )


async def episodes_of(
    folder: Path, kind: EnvironmentKind, name: str, args: dict[str, Any], door: Path
) -> tuple[list[EpisodeReport], list[tuple[str, dict[str, Any]]]]:
    """Run an episode of each of two tasks; return the reports, and the requests at the door."""
    spec = spec_of(kind, name, args)
    async with open_door(door) as asked, open_environments(host_of(folder, door)) as environments:
        info = await environments.describe(spec, "train", tenant_id=TENANT)
        assert info.tasks is None or info.tasks >= 2
        tasks = await environments.draw(spec, "train", 2, 7, tenant_id=TENANT)
        reports = []
        for number, task in enumerate(tasks):
            names = [f"e{number}a", f"e{number}b"] if info.by_group else [f"e{number}"]
            calls = [episode(name, str(door)) for name in names]
            reports += await environments.run(spec, task, calls, tenant_id=TENANT)
    return reports, asked


async def check_refusals(
    folder: Path, kind: EnvironmentKind, name: str, wrong: dict[str, dict[str, Any]], door: Path
) -> None:
    """Check that a description with each of some wrong arguments is refused with the sentence beside them."""
    async with open_door(door), open_environments(host_of(folder, door)) as environments:
        for problem, args in wrong.items():
            with pytest.raises(InvalidField, match=problem) as refused:
                await environments.describe(spec_of(kind, name, args), "train", tenant_id=TENANT)
            assert refused.value.field == "environment.args"


async def test_verifiers_first_interface_scores_what_the_model_said(added: Added, tmp_path: Path) -> None:
    entry = "verifiers.envs.integrations.reasoninggym_env:ReasoningGymEnv"
    pin = ("--with", "renderers==0.1.10")  # newer ones lack a class that 0.3.1 imports
    folder = added("verifiers", "verifiers[rg]==0.3.1", *pin, "--entry", entry, "--name", "sums")
    args = {"gym": "chain_sum", "num_train_examples": 4, "num_eval_examples": 2}
    reports, asked = await episodes_of(folder, "verifiers", "sums", args, tmp_path / "door")
    assert [report.error for report in reports] == ["", ""]
    assert [set(report.scores) for report in reports] == [
        {"check_answer_reward_func", "format_reward_func"}
    ] * 2
    assert [token for token, _ in asked] == ["e0", "e1"]
    assert all("arithmetic" in json.dumps(body["messages"]) for _, body in asked)


async def test_verifiers_second_interface_scores_what_the_model_said(added: Added, tmp_path: Path) -> None:
    folder = added("verifiers", str(Path(__file__).parent / "verifiers_add"))
    args: dict[str, Any] = {"taskset": {"n": 4}, "splits": {"eval": {"taskset": {"begin": 100, "n": 2}}}}
    reports, asked = await episodes_of(folder, "verifiers", "verifiers-add", args, tmp_path / "door")
    assert [(report.error, report.stop) for report in reports] == [("", "agent_completed")] * 2
    for report, (_, body) in zip(reports, asked, strict=True):
        question = body["messages"][-1]["content"]
        assert report.scores == {
            "right": 0.0,
            "short": pytest.approx(0.1 / (1 + len(question))),
            "turns": 1.0,
        }
        assert report.reward == pytest.approx(report.scores["short"]), "the weighted sum of its rewards"
    assert [(token, body["model"], body["max_tokens"]) for token, body in asked] == [
        ("e0", "m", 8),
        ("e1", "m", 8),
    ]
    with_tool = {"taskset": {"n": 4, "task": {"with_tool": True}}}
    reports, asked = await episodes_of(folder, "verifiers", "verifiers-add", with_tool, tmp_path / "door2")
    assert [report.error for report in reports] == ["", ""]
    assert [(report.scores["right"], report.scores["turns"]) for report in reports] == [(1.0, 2.0)] * 2
    _, answered = [body["messages"] for token, body in asked if token == "e0"]
    assert [each["role"] for each in answered] == ["user", "assistant", "tool"]
    await check_refusals(
        folder,
        "verifiers",
        "verifiers-add",
        {
            "Extra inputs": {"taskset": {"m": 4}},
            "choose null": {"agent": {"harness": {"id": "bash"}}},
            "not found": {"taskset": {"id": "nothing"}},
            "none of train, eval": {"splits": {"other": {}}},
        },
        tmp_path / "door3",
    )


async def test_the_example_with_a_tool_calls_it_and_is_rewarded_for_its_answer(
    added: Added, tmp_path: Path
) -> None:
    folder = added("verifiers", str(EXAMPLES / "tool_agent"))
    reports, asked = await episodes_of(folder, "verifiers", "tool-agent", {"n": 4}, tmp_path / "door")
    assert [(report.reward, report.error) for report in reports] == [(1.0, "")] * 2
    assert all(report.scores["calculate_calls"] == 1.0 for report in reports)
    question, answered = [body["messages"] for token, body in asked if token == "e0"]
    assert [each["role"] for each in question] == ["system", "user"]
    assert [each["role"] for each in answered[2:]] == ["assistant", "tool"]
    a, _, b = question[1]["content"].removeprefix("What is ").removesuffix("?").split()
    assert answered[-1]["content"] == str(int(a) * int(b))


async def test_skyrl_gym_gets_each_turn_and_sums_their_rewards(added: Added, tmp_path: Path) -> None:
    folder = added("skyrl", "skyrl-gym==0.4.0")
    rows = [
        {
            "prompt": [{"role": "user", "content": f"#### {said}"}],
            "reward_spec": {"method": "rule", "ground_truth": "6"},
        }
        for said in (6, 7)  # the door repeats it
    ]
    args = {"env_class": "gsm8k_multi_turn", "rows": rows}
    reports, asked = await episodes_of(folder, "skyrl", "skyrl-gym", args, tmp_path / "door")
    right, wrong = sorted(reports, key=lambda report: report.reward or 0.0, reverse=True)
    assert (right.reward, right.scores, right.stop) == (1.0, {"steps": 1.0}, "done")
    assert wrong.scores == {"steps": 3.0}, "its own limit is the job's"
    assert wrong.reward == pytest.approx(0.2 / 3)
    assert len(asked) == 4


async def test_tinkers_groups_get_tokens_and_are_rewarded_together(added: Added, tmp_path: Path) -> None:
    wheels = os.environ.get("PIP_FIND_LINKS")  # a CPU build of torch spares 3 GB
    small = ("--with", "torch==2.13.0+cpu") if wheels else ()
    folder = added(
        "tinker", str(Path(__file__).parent / "tinker_add"), *small, "--entry", "tinker_add:groups"
    )
    reports, asked = await episodes_of(folder, "tinker", "tinker-add", {"n": 2}, tmp_path / "door")
    assert [report.reward for report in reports] == [6.0, 7.0, 6.0, 7.0], (
        "two turns of three tokens, and a place"
    )
    assert reports[1].scores == {"place": 1.0}
    first, second = [body for token, body in asked if token == "e0a"]
    assert second["token_ids"][: len(first["token_ids"]) + 3] == [*first["token_ids"], 7, 8, 10]
    assert first["sampling_params"]["stop_token_ids"] == [10]


async def test_openenv_gets_actions_of_its_schema_and_sums_their_rewards(
    added: Added, tmp_path: Path
) -> None:
    source = str(Path(__file__).parent / "openenv_add")
    folder = added("openenv", source, "--entry", "openenv_add:app")
    reports, asked = await episodes_of(folder, "openenv", "openenv-add", {}, tmp_path / "door")
    assert [report.error for report in reports] == ["", ""]
    told = [(report.reward, report.scores, report.stop) for report in reports]
    assert told == [(1.0, {"turns": 1.0, "refused_actions": 0.0}, "done")] * 2, "the question has its answer"
    (message,) = asked[0][1]["messages"]
    assert '"reason"' in message["content"], "the model is told the schema of actions"


async def test_nemo_gyms_agent_keeps_its_session_and_its_verifier_rewards_it(
    added: Added, tmp_path: Path
) -> None:
    folder = added("nemogym", "nemo-gym==0.4.0", "--python", "3.13")
    args: dict[str, Any] = {"server": "example_session_state_mgmt"}
    reports, asked = await episodes_of(folder, "nemogym", "nemo-gym", args, tmp_path / "door")
    assert [(report.error, report.stop) for report in reports] == [("", "done")] * 2
    assert [report.reward for report in reports] == [1.0, 1.0], "both additions reached the row's counter"
    assert all(report.scores["tool_calls"] == 2.0 for report in reports)
    first, second, third = [body for token, body in asked if token == "e0"]
    assert (first["model"], first["max_output_tokens"]) == ("m", 8)
    assert second["input"][: len(first["input"])] == first["input"]
    assert [each["type"] for each in third["input"][1:]] == ["function_call", "function_call_output"] * 2
    wrong: dict[str, dict[str, Any]] = {
        "server is missing": {},
        "No module named": {"server": "nothing"},
        "unknown arguments: rank": {**args, "rank": 1},
        "responses_create_params": {**args, "rows": [{}]},
        "a model of its own": {"server": "equivalence_llm_judge"},
    }
    await check_refusals(folder, "nemogym", "nemo-gym", wrong, tmp_path / "door2")
    example = "resources_servers.example_session_state_mgmt.app:StatefulCounterResourcesServer"
    added("nemogym", "nemo-gym==0.4.0", "--python", "3.13", "--name", "own", "--entry", example)
    asks = {name: first[name] for name in ("input", "tools")}
    row = {"initial_count": 0, "expected_count": 0, "responses_create_params": asks}
    reports, _ = await episodes_of(folder, "nemogym", "own", {"rows": [row, row]}, tmp_path / "door3")
    assert {report.reward for report in reports} == {0.0}, "3 was added, and 0 expected"
