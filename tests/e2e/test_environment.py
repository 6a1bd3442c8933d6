"""A job in an environment on a running stack: a reward URL that an operator adds, and a tenant trains on."""

import json
import math
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from e2e.stack import RunningStack, mint

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

WORDS = ("abc", "bcd", "cde", "def", "efg", "fgh")
ROWS = [{"prompt": [{"role": "user", "content": f"f {word}="}], "reference": word} for word in WORDS]


class Judge(BaseHTTPRequestHandler):
    """Rewards the share of a reference's letters that an answer begins with."""

    def do_POST(self) -> None:
        items = json.loads(self.rfile.read(int(self.headers["content-length"])))["items"]
        told = json.dumps({"rewards": [_reward(item) for item in items]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def _reward(item: dict[str, str]) -> float:
    pairs = zip(item["completion"], item["reference"], strict=False)
    return sum(said == meant for said, meant in pairs) / len(item["reference"])


@pytest.fixture
def judge(stack: RunningStack) -> Iterator[str]:
    """The name of an environment whose rewards a server of ours gives."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/score"
    added = mint("env", "add", "http", url, "--name", "judge", "--dir", stack.folder)
    assert added.returncode == 0, added.stderr
    yield "judge"
    assert mint("env", "rm", "judge", "--dir", stack.folder).returncode == 0
    server.shutdown()
    server.server_close()


def test_a_job_trains_on_the_rewards_of_a_url(stack: RunningStack, judge: str) -> None:
    stack.make_policy("judged")
    env = {"kind": "http", "id": judge, "args": {"rows": ROWS}}
    size = {"steps": 3, "prompts_per_step": 2, "group_size": 4, "max_new_tokens": 6}
    spec = {"policy": "judged", "env": env, "temperature": 0.8, "staleness": 1, **size}
    job_id = stack.post("/jobs", spec, status=202)["job_id"]
    job = stack.wait_for_end(job_id)
    assert job["state"] == "succeeded", job["reason"]
    assert job["steps"][0]["ratio_max_error"] < 1e-3
    shown = stack.get(f"/jobs/{job_id}/rollouts?step=2")
    assert {each["outcome"] for each in shown["episodes"]} <= {"ok", "truncated"}
    assert len(shown["episodes"]) == 4
    word = shown["prompt"]["text"].removeprefix("f ").removesuffix("=")
    _check_log_ratios(stack, job_id, job["steps"])
    for episode in shown["episodes"]:
        (parts,) = episode["segments"]
        said = "".join(part["text"] or "" for part in parts if part["kind"] == "sampled")
        assert episode["reward"] == pytest.approx(_reward({"completion": said, "reference": word}), abs=0.34)


def test_a_job_is_scored_in_its_environment_and_a_run_scores_any_revision(
    stack: RunningStack, judge: str
) -> None:
    stack.make_policy("rated")
    env = {"kind": "http", "id": judge, "args": {"rows": ROWS}}
    size = {"steps": 4, "prompts_per_step": 2, "group_size": 4, "max_new_tokens": 6}
    spec = {
        "policy": "rated",
        "env": env,
        "temperature": 0.8,
        "evaluation": {"every": 2, "n": 6},
        **size,
    }
    job = stack.wait_for_end(stack.post("/jobs", spec, status=202)["job_id"])
    assert job["state"] == "succeeded", job["reason"]
    scores = {step["revision"]["number"]: step.get("valid_reward_mean") for step in job["steps"]}
    measured = {number: value for number, value in scores.items() if value is not None}
    assert list(measured) == [2, 4]
    best = max(measured, key=lambda number: (measured[number], -number))
    assert job["best"]["number"] == job["result"]["number"] == best
    assert stack.get("/policies/rated/revisions/best")["number"] == best
    recorded = stack.get("/policies/rated/evaluations")
    assert {(each["number"], each["value"]) for each in recorded} == set(measured.items())

    said = mint(
        *("eval", "run", "rated@best", "--env", f"http:{judge}", "--env-args", json.dumps({"rows": ROWS})),
        *("--n", "6", "--json", "--dir", stack.folder),
    )
    assert said.returncode == 0, said.stderr
    run = json.loads(said.stdout)
    assert (run["state"], run["scored"], run["revision"]["number"]) == ("succeeded", 6, best)
    assert sum(run["episodes"].values()) == 6
    assert set(run["episodes"]) <= {"ok", "truncated"}
    assert run["suite"].startswith(f"env:http:{judge}:")
    rows = stack.get(f"/evaluations/run/{run['run_id']}/rows")
    assert run["value"] == pytest.approx(sum(row["score"] for row in rows) / 6)
    for wrong, field in (
        ({"env": {**env, "id": "nobody"}}, "nobody"),
        ({"env": {**env, "args": {}}}, "env.args"),
        ({"env": {**env, "max_turns": 0}}, "env.max_turns"),
        ({"env": env, "task": "progression"}, "task"),
    ):
        answer = stack.http.post("/mint/v1/evaluations/run", json={"policy": "rated", **wrong})
        assert answer.status_code in {404, 422}, answer.text
        assert field in answer.text


def test_a_job_in_an_environment_that_is_not_there_is_refused(stack: RunningStack) -> None:
    stack.make_policy("nowhere")
    for env, field in (
        ({"kind": "http", "id": "nobody", "args": {"rows": ROWS}}, "nobody"),
        ({"kind": "http", "id": "x", "args": {}, "max_turns": 0}, "env.max_turns"),
    ):
        answer = stack.http.post("/mint/v1/jobs", json={"policy": "nowhere", "env": env})
        assert answer.status_code in {404, 422}, answer.text
        assert field in answer.text


def _check_log_ratios(stack: RunningStack, job_id: str, steps: list[dict[str, float]]) -> None:
    """The greatest ratio of the first step's tokens is the one that the trainer measured."""
    ratios: list[float] = []
    deadline = time.monotonic() + 20
    while not ratios and time.monotonic() < deadline:
        groups = [stack.get(f"/jobs/{job_id}/rollouts?step=1&group={group}") for group in (0, 1)]
        sampled = [
            part
            for group in groups
            for episode in group["episodes"]
            for parts in episode["segments"]
            for part in parts
            if "trainer_logprobs" in part
        ]
        ratios = [
            abs(math.expm1(own - other))
            for part in sampled
            for own, other in zip(part["trainer_logprobs"], part["logprobs"], strict=True)
        ]
    assert max(ratios) == pytest.approx(steps[0]["ratio_max_error"], rel=0.01, abs=1e-6)
