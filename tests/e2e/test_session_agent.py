"""Agents that claim the episodes of a job on a running stack: the example, and what is refused."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from e2e.stack import RunningStack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

EXAMPLE = Path(__file__).parents[2] / "examples/session_agent.py"
SIZE = {"prompts_per_step": 2, "group_size": 4, "max_new_tokens": 6, "temperature": 0.8}
USER: Any = {"role": "user", "content": "f abc="}


def submit(stack: RunningStack, policy: str, **env: Any) -> str:
    stack.make_policy(policy)
    spec = {"policy": policy, "env": {"kind": "session", **env}, "steps": 1, **SIZE}
    job_id: str = stack.post("/jobs", spec, status=202)["job_id"]
    return job_id


def claim(stack: RunningStack, job_id: str, **body: Any) -> Any:
    return stack.post(f"/jobs/{job_id}/episodes", {"wait_seconds": 30, **body})


def test_the_example_agent_trains_a_job(stack: RunningStack) -> None:
    stack.make_policy("parrot")
    job_id = stack.post(
        "/jobs", {"policy": "parrot", "env": {"kind": "session"}, "steps": 2, **SIZE}, status=202
    )["job_id"]
    deadline = time.monotonic() + 60
    while not (waits_for := stack.job(job_id)["waits_for"]):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert waits_for == f"waits for an agent to claim episodes: POST /mint/v1/jobs/{job_id}/episodes"
    command = [sys.executable, str(EXAMPLE), job_id, f"http://127.0.0.1:{stack.port}", stack.api_key]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert ran.returncode == 0, ran.stderr
    job = stack.wait_for_end(job_id)
    assert len(job["steps"]) == 2
    # The letters of this small base may earn every episode of a group the same.
    assert job["state"] == "succeeded" or job["reason"].startswith("nothing was trained")
    assert ran.stdout.startswith(job["state"])
    assert [sum(step["episodes"].values()) for step in job["steps"]] == [8, 8]
    shown = stack.get(f"/jobs/{job_id}/rollouts?step=1")
    assert len(shown["episodes"]) == 4
    assert "Say " in shown["prompt"]["text"]


def test_a_job_trains_on_what_its_agents_sampled_and_how_they_rewarded_it(stack: RunningStack) -> None:
    job_id = submit(stack, "rewarded")
    while not (claimed := claim(stack, job_id, n=8))["is_ended"]:
        for episode in claimed["episodes"]:
            with openai.OpenAI(base_url=episode["base_url"], api_key=episode["api_key"]) as client:
                client.chat.completions.create(model=episode["model"], messages=[USER])
            stack.post(f"/episodes/{episode['episode']}/reward", {"reward": float(episode["sample"] % 2)})
    job = stack.wait_for_end(job_id)
    assert (job["state"], job["reward"]) == ("succeeded", 0.5), job["reason"]
    (step,) = job["steps"]
    assert step["ratio_max_error"] < 1e-3


def test_an_episode_is_called_by_the_clients_of_both_vendors_and_rewarded_once(stack: RunningStack) -> None:
    job_id = submit(stack, "claimed", args={"level": 3}, max_turns=4)
    claimed = claim(stack, job_id, n=2)
    assert (claimed["args"], claimed["is_ended"], len(claimed["episodes"])) == ({"level": 3}, False, 2)
    first, second = claimed["episodes"]
    assert (first["seed"], first["index"], first["group"]) == (second["seed"], second["index"], 0)
    assert (first["sample"], second["sample"], first["max_turns"]) == (0, 1, 4)
    unrewarded = stack.http.post(f"/mint/v1/episodes/{first['episode']}/reward", json={"reward": 1})
    assert unrewarded.status_code == 422
    assert "no answer of the model yet" in unrewarded.text

    with openai.OpenAI(base_url=first["base_url"], api_key=first["api_key"], max_retries=0) as client:
        (model,) = client.models.list()
        assert model.id == first["model"]
        said = client.chat.completions.create(model=model.id, messages=[USER]).choices[0].message
        parts = client.chat.completions.create(model=model.id, messages=[USER], stream=True)
        assert list(parts)
        assert said.role == "assistant"
        assert client.responses.create(model=model.id, input="f abc=").object == "response"
    with anthropic.Anthropic(
        base_url=first["anthropic_base_url"], api_key=first["api_key"], max_retries=0
    ) as client:
        message = client.messages.create(model=model.id, max_tokens=4, messages=[USER])
        assert message.role == "assistant"
        with pytest.raises(anthropic.BadRequestError, match="max_turns"):
            client.messages.create(model=model.id, max_tokens=4, messages=[USER])

    for key, episode in ((first["api_key"], second), ("mint-episode-x.y", first), ("nothing", first)):
        stranger = openai.OpenAI(base_url=episode["base_url"], api_key=key, max_retries=0)
        with stranger, pytest.raises(openai.AuthenticationError):
            stranger.models.list()
    with httpx.Client(headers={"authorization": f"Bearer {first['api_key']}"}) as thief:
        for path in ("/v1/models", "/mint/v1/jobs"):
            assert thief.get(f"http://127.0.0.1:{stack.port}{path}").status_code == 401
        path = f"/mint/v1/episodes/{first['episode']}/reward"
        assert thief.post(f"http://127.0.0.1:{stack.port}{path}", json={"reward": 1}).status_code == 401

    rewarded = stack.post(f"/episodes/{first['episode']}/reward", {"reward": 0.5, "scores": {"letters": 2}})
    assert rewarded == {"episode": first["episode"], "reward": 0.5, "error": ""}
    assert stack.post(f"/episodes/{first['episode']}/reward", {"reward": 0.5, "scores": {"letters": 2}})
    again = stack.http.post(f"/mint/v1/episodes/{first['episode']}/reward", json={"reward": 1.0})
    assert again.status_code == 422
    assert "has its reward already" in again.text
    late = openai.OpenAI(base_url=first["base_url"], api_key=first["api_key"], max_retries=0)
    with late, pytest.raises(openai.NotFoundError, match="Claim another one"):
        late.models.list()

    stack.post(f"/jobs/{job_id}/cancel", {})
    ended = claim(stack, job_id)
    assert (ended["is_ended"], ended["state"], ended["episodes"]) == (True, "cancelled", [])


def test_what_is_no_claim_and_no_reward_is_refused_by_its_field(stack: RunningStack) -> None:
    stack.make_policy("plain")
    job_id = stack.submit("plain", steps=1)
    for path, body, status, named in (
        (f"/jobs/{job_id}/episodes", {}, 422, "env.kind is session"),
        ("/jobs/job_nothing/episodes", {}, 404, "job_nothing"),
        (f"/jobs/{job_id}/episodes", {"n": 0}, 422, "n"),
        (f"/jobs/{job_id}/episodes", {"wait_seconds": 1e9}, 422, "wait_seconds"),
        ("/episodes/ep_a_b/reward", {"reward": 1.0}, 404, "episode_over"),
        ("/episodes/nothing/reward", {"reward": 1.0}, 404, "episode_over"),
        ("/episodes/ep_a_b/reward", {"reward": "high"}, 422, "reward"),
        ("/episodes/ep_a_b/reward", {"points": 1}, 422, "points"),
    ):
        answer = stack.http.post(f"/mint/v1{path}", json=body)
        assert (answer.status_code, named in answer.text) == (status, True), answer.text
    stack.wait_for_end(job_id)
