"""A job request becomes a complete job, or an error that names the field."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.algorithms import BUILT_IN, Algorithms
from mint_common.errors import InvalidField
from mint_common.events import JobSpec
from mint_common.generation import EngineLimits
from mint_common.job_requests import (
    EarlyStoppingBody,
    EnvironmentBody,
    EpisodeEvaluationBody,
    EvaluatedEnvironmentBody,
    JobRequest,
)
from services.rollout.core.environment_plan import environment_defaults, plan_scored_environment
from services.rollout.core.job_plan import MAX_LEARNING_RATE, check_sampled, plan_job

DEFAULTS = {
    "steps": 60,
    "prompts_per_step": 4,
    "group_size": 16,
    "max_new_tokens": 8,
    "temperature": 1.0,
    "learning_rate": 1e-3,
    "rank": 8,
}


def _request(**wishes) -> JobRequest:
    return replace(JobRequest(policy="p", task="mode:copy"), **wishes)


def test_a_bare_request_takes_the_tasks_recipe():
    spec = plan_job(_request(), Algorithms(), defaults=DEFAULTS, max_context=512)
    assert (spec.algorithm, spec.task, spec.steps, spec.group_size) == ("grpo", "mode:copy", 60, 16)
    assert (spec.prompts_per_step, spec.max_new_tokens, spec.learning_rate) == (4, 8, 1e-3)
    assert (spec.temperature, spec.kl_coefficient, spec.clip_norm, spec.seed) == (1.0, 0.0, 1.0, 0)


def test_a_wish_wins_over_the_recipe():
    spec = plan_job(
        _request(steps=3, learning_rate=0.05, seed=9), Algorithms(), defaults=DEFAULTS, max_context=512
    )
    assert (spec.steps, spec.learning_rate, spec.seed) == (3, 0.05, 9)


def test_sft_has_groups_of_one_whatever_the_recipe_says():
    assert (
        plan_job(_request(algorithm="sft"), Algorithms(), defaults=DEFAULTS, max_context=512).group_size == 1
    )
    with pytest.raises(InvalidField) as refused:
        plan_job(_request(algorithm="sft", group_size=2), Algorithms(), defaults=DEFAULTS, max_context=512)
    assert refused.value.field == "group_size"


def test_sft_has_no_pull_to_the_base():
    for said, spec in ((None, DEFAULTS), (0.0, {**DEFAULTS, "kl_coefficient": 0.5})):
        request = _request(algorithm="sft", kl_coefficient=said)
        assert plan_job(request, Algorithms(), defaults=spec, max_context=512).kl_coefficient == 0.0
    with pytest.raises(InvalidField, match="must be 0 for sft") as refused:
        plan_job(
            _request(algorithm="sft", kl_coefficient=0.1), Algorithms(), defaults=DEFAULTS, max_context=512
        )
    assert refused.value.field == "kl_coefficient"


def test_dpo_has_a_beta_in_place_of_a_kl_coefficient():
    recipe = {**DEFAULTS, "kl_coefficient": 0.5}
    spec = plan_job(_request(algorithm="dpo"), Algorithms(), defaults=recipe, max_context=512)
    assert (spec.algorithm, spec.group_size, spec.kl_coefficient) == ("dpo", 16, 0.1)
    assert (
        plan_job(
            _request(algorithm="dpo", beta=0.3), Algorithms(), defaults={}, max_context=512
        ).kl_coefficient
        == 0.3
    )


@pytest.mark.parametrize(
    ("wishes", "field"),
    [
        ({"algorithm": "dpo", "beta": 0.0}, "beta"),
        ({"algorithm": "dpo", "beta": math.nan}, "beta"),
        ({"algorithm": "dpo", "beta": 101.0}, "beta"),
        ({"algorithm": "dpo", "kl_coefficient": 0.1}, "kl_coefficient"),
        ({"algorithm": "dpo", "group_size": 1}, "group_size"),
        ({"algorithm": "grpo", "beta": 0.1}, "beta"),
        ({"algorithm": "sft", "beta": 0.1}, "beta"),
    ],
)
def test_what_an_algorithm_does_not_have_is_refused_by_name(wishes, field):
    with pytest.raises(InvalidField) as refused:
        plan_job(_request(**wishes), Algorithms(), defaults=DEFAULTS, max_context=512)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", 10_001),
        ("prompts_per_step", 0),
        ("prompts_per_step", 1025),
        ("group_size", 1),
        ("group_size", 257),
        ("max_new_tokens", 0),
        ("max_new_tokens", 512),
        ("temperature", 0.05),
        ("temperature", 2.5),
        ("staleness", -1),
        ("staleness", 9),
        ("temperature", math.nan),
        ("learning_rate", 0.0),
        ("learning_rate", 1.5),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("kl_coefficient", -0.1),
        ("kl_coefficient", math.inf),
        ("clip_norm", -1.0),
        ("clip_norm", math.nan),
        ("seed", -1),
    ],
)
def test_a_number_out_of_bounds_is_refused_by_name(field, value):
    with pytest.raises(InvalidField) as refused:
        plan_job(_request(**{field: value}), Algorithms(), defaults=DEFAULTS, max_context=512)
    assert refused.value.field == field


@pytest.mark.parametrize(("algorithm", "group_size"), [("sft", 1), ("dpo", 4)])
def test_sampling_ahead_is_of_algorithms_that_correct_their_sampler(algorithm, group_size):
    request = _request(algorithm=algorithm, group_size=group_size, staleness=1)
    with pytest.raises(InvalidField, match=algorithm) as refused:
        plan_job(request, Algorithms(), defaults={}, max_context=512)
    assert refused.value.field == "staleness"


def test_a_step_of_more_sampled_tokens_than_fit_in_memory_is_refused_with_its_fields():
    numbers = {"prompts_per_step": 1024, "group_size": 128, "max_new_tokens": 32}
    plan_job(_request(**numbers), Algorithms(), defaults=DEFAULTS, max_context=512)
    with pytest.raises(
        InvalidField, match="group_size 128 and max_new_tokens 33, is 4,325,376 tokens"
    ) as refused:
        plan_job(
            _request(**{**numbers, "max_new_tokens": 33}), Algorithms(), defaults=DEFAULTS, max_context=512
        )
    assert refused.value.field == "prompts_per_step"
    sft = {**numbers, "algorithm": "sft", "group_size": 1, "max_new_tokens": 8000}
    plan_job(_request(**sft), Algorithms(), defaults={}, max_context=16_384)


@pytest.mark.parametrize(("field", "value"), [("group_size", 129), ("max_new_tokens", 256)])
def test_what_no_engine_takes_is_refused_by_name(field, value):
    limits = EngineLimits(max_context=256, max_completions=128)
    spec = plan_job(_request(**{field: value}), Algorithms(), defaults=DEFAULTS, max_context=512)
    with pytest.raises(InvalidField) as refused:
        check_sampled(spec, limits)
    assert refused.value.field == field
    check_sampled(spec, None)  # while no engine is known, the job's first wave finds out
    check_sampled(
        plan_job(_request(group_size=128), Algorithms(), defaults=DEFAULTS, max_context=512), limits
    )
    sft = plan_job(
        _request(algorithm="sft", max_new_tokens=300), Algorithms(), defaults=DEFAULTS, max_context=512
    )
    check_sampled(sft, limits)  # it samples nothing


@given(
    steps=st.integers(1, 10_000),
    group_size=st.integers(2, 256),
    learning_rate=st.floats(min_value=1e-12, max_value=MAX_LEARNING_RATE),
    max_new_tokens=st.integers(1, 511),
)
def test_every_number_within_bounds_is_taken_as_it_is(steps, group_size, learning_rate, max_new_tokens):
    wishes = {
        "steps": steps,
        "group_size": group_size,
        "learning_rate": learning_rate,
        "max_new_tokens": max_new_tokens,
    }
    spec = plan_job(_request(**wishes), Algorithms(), defaults=DEFAULTS, max_context=512)
    assert {name: getattr(spec, name) for name in wishes} == wishes


def test_an_integer_beyond_every_float_is_refused_by_name():
    with pytest.raises(InvalidField) as refused:
        plan_job(_request(steps=10**400), Algorithms(), defaults=DEFAULTS, max_context=512)
    assert refused.value.field == "steps"


def test_a_stack_s_own_algorithm_takes_tasks_if_it_says_so() -> None:
    own = replace(Algorithms().named("dpo"), name="own", default_pull=0.7)
    spec = plan_job(
        _request(algorithm="own"), Algorithms([*BUILT_IN, own]), defaults=DEFAULTS, max_context=512
    )
    assert (spec.algorithm, spec.kl_coefficient, spec.group_size) == ("own", 0.7, 16)
    for name in ("kto", "own", ""):
        with pytest.raises(InvalidField, match=f"dppo, opd, sft, dpo, got '{name}'"):
            plan_job(_request(algorithm=name), Algorithms(), defaults=DEFAULTS, max_context=512)


ENV = EnvironmentBody(kind="verifiers", id="sums", args={"digits": 3})


def _in_environment(env: EnvironmentBody = ENV, **wishes) -> JobSpec:
    request = replace(JobRequest(policy="p", env=env), **wishes)
    return plan_job(request, Algorithms(), defaults=environment_defaults(max_context=256), max_context=256)


def test_a_job_in_an_environment_has_its_own_defaults_and_any_temperature():
    spec = _in_environment(temperature=0.7, group_size=6)
    assert spec.environment is not None
    assert (spec.task, spec.max_new_tokens, spec.temperature) == ("", 64, 0.7)
    assert (spec.environment.split, spec.environment.max_turns, spec.environment.min_group) == ("train", 8, 5)


def test_agents_are_not_scored_in():
    with pytest.raises(InvalidField) as refused:
        _in_environment(EnvironmentBody(kind="session"), evaluation=EpisodeEvaluationBody())
    assert refused.value.field == "evaluation"
    with pytest.raises(InvalidField) as refused:
        plan_scored_environment(EvaluatedEnvironmentBody(kind="session", id="s"))
    assert refused.value.field == "env.kind"


def test_a_session_needs_no_name():
    spec = _in_environment(EnvironmentBody(kind="session", args={"level": 2}))
    assert spec.environment is not None
    assert (spec.environment.id, spec.environment.args) == ("session", {"level": 2})


@pytest.mark.parametrize(
    ("env", "wishes", "field"),
    [
        ({"id": ""}, {}, "env.id"),
        ({"kind": "session", "split": "eval"}, {}, "env.split"),
        ({"max_turns": 0}, {}, "env.max_turns"),
        ({"max_turns": 257}, {}, "env.max_turns"),
        ({"episode_seconds": math.nan}, {}, "env.episode_seconds"),
        ({"episode_seconds": 0.0}, {}, "env.episode_seconds"),
        ({"min_group": 9}, {}, "env.min_group"),
        ({"min_group": 0}, {}, "env.min_group"),
        ({"args": {"a": "\x00"}}, {}, "env.args"),
        ({"args": {"a": math.inf}}, {}, "env.args"),
        ({"args": {"a": "x" * 20_000}}, {}, "env.args"),
        ({"args": {"a": json.loads("[" * 60 + "]" * 60)}}, {}, "env.args"),
        ({}, {"temperature": 0.0}, "temperature"),
        ({}, {"temperature": 2.5}, "temperature"),
        ({}, {"algorithm": "sft"}, "algorithm"),
        ({}, {"algorithm": "dpo"}, "algorithm"),
        ({}, {"prompts_per_step": 1024, "group_size": 256}, "prompts_per_step"),
        ({"max_turns": 256}, {"prompts_per_step": 64, "group_size": 32}, "prompts_per_step"),
        ({}, {"steps": 4, "evaluation": EpisodeEvaluationBody(every=5)}, "evaluation.every"),
        ({}, {"evaluation": EpisodeEvaluationBody(every=0)}, "evaluation.every"),
        ({}, {"evaluation": EpisodeEvaluationBody(n=1001)}, "evaluation.n"),
        ({}, {"evaluation": EpisodeEvaluationBody(n=1000, samples=17)}, "evaluation.samples"),
    ],
)
def test_a_wrong_environment_is_refused_by_its_field(env, wishes, field):
    with pytest.raises(InvalidField) as refused:
        _in_environment(replace(ENV, **env), **wishes)
    assert refused.value.field == field


def test_a_job_in_an_environment_may_be_measured_there():
    assert _in_environment().evaluation is None
    stopping = EarlyStoppingBody(patience=3)
    spec = _in_environment(steps=40, evaluation=EpisodeEvaluationBody(early_stopping=stopping))
    plan = spec.evaluation
    assert plan is not None
    assert (plan.every, plan.rows, plan.split, plan.metric) == (4, 64, "eval", "valid_reward_mean")
    assert plan.early_stopping is not None
    assert plan.early_stopping.patience == 3
    with pytest.raises(InvalidField) as refused:
        plan_job(
            _request(evaluation=EpisodeEvaluationBody()), Algorithms(), defaults=DEFAULTS, max_context=512
        )
    assert refused.value.field == "evaluation"
