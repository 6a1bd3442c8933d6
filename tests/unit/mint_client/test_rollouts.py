"""Rollouts of a step, and jobs in environments, as the terminal shows them."""

from typing import Any

import pytest
from typer import BadParameter

from mint_client.commands.environments import environment_of
from mint_client.core.jobs import read_job
from mint_client.core.rollouts import rollout_lines
from tests.unit.mint_client.test_jobs import JOB


def part(kind: str, text: str | None) -> dict[str, Any]:
    return {"kind": kind, "text": text, "tokens": [1]}


def test_each_episode_shows_what_was_sampled_and_what_came_between() -> None:
    good = {"episode": 0, "reward": 0.5, "outcome": "truncated", "scores": {"sum": 2.0}, "error": ""}
    good["left_out"] = 1
    bad = {"episode": 1, "reward": None, "outcome": "env_error", "scores": {}, "error": "it raised"}
    turns = [part("sampled", "a\nb"), part("context", "more"), part("sampled", None)]
    found = {
        "step": 2,
        "group": 0,
        "groups": 4,
        "revision_number": 1,
        "prompt": {"text": "say"},
        "episodes": [{**good, "segments": [turns, [part("sampled", "c")]]}, {**bad, "segments": []}],
    }
    assert list(rollout_lines(found)) == [
        "step 2, prompt 0 of 4, sampled at revision 1",
        "  > say",
        "",
        "episode 0: reward 0.5, sum 2, cut off at a limit, 1 of its segments not trained on",
        "  < a",
        "  < b",
        "  > more",
        "  < (no engine of the base answers: texts are not known now)",
        "  a conversation of its own:",
        "  < c",
        "",
        "episode 1: env_error: it raised",
    ]


def test_a_job_in_an_environment_is_named_by_it() -> None:
    spec = {"task": "", "steps": 6, "environment": {"kind": "verifiers", "id": "sums", "args": {}}}
    assert read_job({**JOB, "spec": spec}).source == "verifiers:sums"
    agents = {**spec, "environment": {"kind": "session", "id": "session"}}
    assert read_job({**JOB, "spec": agents}).source == "session"
    assert environment_of("session", "{}", 4) == {"kind": "session", "args": {}, "max_turns": 4}
    assert environment_of("session:browser", "{}", None) == {"kind": "session", "id": "browser", "args": {}}
    made = environment_of("verifiers:sums", '{"digits": 3}', None)
    assert made == {"kind": "verifiers", "id": "sums", "args": {"digits": 3}}
    for env, args in (("sums", "{}"), ("verifiers:", "{}"), (":sums", "{}"), ("verifiers:sums", "{")):
        with pytest.raises(BadParameter):
            environment_of(env, args, None)
