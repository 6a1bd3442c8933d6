"""What a job may change of its algorithm's policy gradient, and which losses older samples allow."""

import math
from dataclasses import replace
from typing import Any, get_args

import pytest

from mint_common.algorithms import BUILT_IN, Algorithms
from mint_common.errors import InvalidField
from mint_common.events import EnvironmentSpec, JobSpec, Overlong, PolicyGradient
from mint_common.events.policy_gradient import BOUNDS, PolicyLoss
from mint_common.job_requests import GradientBody, JobRequest, OverlongBody
from services.rollout.core.gradient_plan import plan_gradient
from services.rollout.core.job_plan import plan_job

ALGORITHMS = Algorithms()
PRESETS = [one.name for one in BUILT_IN if one.gradient]
LOSSES: tuple[PolicyLoss, ...] = get_args(PolicyLoss)
SPEC = plan_job(JobRequest(policy="p", task="t", max_new_tokens=32), ALGORITHMS, defaults={}, max_context=512)


def planned(name: str, spec: JobSpec = SPEC, **wishes: Any) -> PolicyGradient:
    found = plan_gradient(GradientBody(**wishes), ALGORITHMS.named(name), spec, field="gradient")
    assert found is not None
    return found


@pytest.mark.parametrize("name", PRESETS)
def test_a_job_has_its_algorithms_whole_gradient(name: str) -> None:
    teacher = "base" if ALGORITHMS.named(name).has_teacher else None
    request = JobRequest(policy="p", task="t", algorithm=name, teacher=teacher)
    spec = plan_job(request, ALGORITHMS, defaults={}, max_context=512)
    assert spec.gradient == ALGORITHMS.named(name).gradient
    assert planned(name) == spec.gradient


def test_what_a_job_names_replaces_the_algorithms_own() -> None:
    overlong = OverlongBody(buffer=8, factor=0.5, mask=True)
    pulled = replace(SPEC, kl_coefficient=0.1)
    found = planned("dapo", pulled, clip_high=1.5, advantage="maxrl", kl="reward", overlong=overlong)
    assert found == PolicyGradient(
        advantage="maxrl",
        loss="clip",
        clip_low=0.8,
        clip_high=1.5,
        kl="reward",
        overlong=Overlong(buffer=8, factor=0.5, mask=True),
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_another_loss_comes_with_its_own_bounds(loss: PolicyLoss) -> None:
    for name in PRESETS:
        found, own = planned(name, loss=loss), ALGORITHMS.named(name).gradient
        assert own is not None
        usual = (own.clip_low, own.clip_high) if own.loss == loss else BOUNDS[loss]
        assert (found.clip_low, found.clip_high) == usual


@pytest.mark.parametrize(
    ("name", "wishes", "field"),
    [
        ("grpo", {"clip_high": 1.2}, "gradient.clip_high"),
        ("grpo", {"loss": "tis", "clip_low": 0.5}, "gradient.clip_low"),
        ("dapo", {"clip_low": 1.1}, "gradient.clip_low"),
        ("dapo", {"clip_high": 0.9}, "gradient.clip_high"),
        ("dapo", {"clip_high": math.nan}, "gradient.clip_high"),
        ("dppo", {"clip_high": 1.28}, "gradient.clip_high"),
        ("grpo", {"overlong": OverlongBody(buffer=33)}, "gradient.overlong.buffer"),
        ("grpo", {"overlong": OverlongBody(buffer=-1)}, "gradient.overlong.buffer"),
        ("grpo", {"overlong": OverlongBody(factor=math.inf)}, "gradient.overlong.factor"),
        ("grpo", {"overlong": OverlongBody(factor=2.0)}, "gradient.overlong.factor"),
        ("grpo", {"kl": "reward"}, "gradient.kl"),
        ("dapo", {"epochs": 0}, "gradient.epochs"),
        ("dapo", {"epochs": 17}, "gradient.epochs"),
        ("dapo", {"minibatches": 0}, "gradient.minibatches"),
        ("dapo", {"minibatches": 9}, "gradient.minibatches"),
        ("dapo", {"epochs": 16, "minibatches": 5}, "gradient.minibatches"),
        ("sft", {"epochs": 2}, "gradient"),
        ("sft", {}, "gradient"),
        ("dpo", {"loss": "clip"}, "gradient"),
    ],
)
def test_what_a_loss_does_not_have_is_refused_by_its_field(
    name: str, wishes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidField) as refused:
        planned(name, **wishes)
    assert refused.value.field == field


def test_turns_of_an_environment_have_no_length_to_punish() -> None:
    environment = EnvironmentSpec(
        kind="http", id="e", args={}, split="train", max_turns=2, episode_seconds=1.0, min_group=1
    )
    spec = replace(SPEC, environment=environment)
    assert planned("dapo", spec, overlong=OverlongBody(mask=True)).overlong.mask
    with pytest.raises(InvalidField) as refused:
        planned("dapo", spec, overlong=OverlongBody(buffer=4))
    assert refused.value.field == "gradient.overlong.buffer"


@pytest.mark.parametrize("name", PRESETS)
def test_samples_of_older_revisions_are_trained_on_with_a_bound(name: str) -> None:
    stale, algorithm = replace(SPEC, staleness=2), ALGORITHMS.named(name)
    assert algorithm.gradient is not None
    expected = algorithm.gradient.loss if algorithm.fixes_loss else "dppo"
    assert planned(name, stale).loss == expected
    assert planned(name, stale, loss="tis").loss == "tis"
    with pytest.raises(InvalidField, match=r"2 steps old: use one of clip, .*dppo") as refused:
        planned(name, stale, loss="is")
    assert refused.value.field == "gradient.loss"


@pytest.mark.parametrize("wishes", [{"epochs": 2}, {"minibatches": 4}, {"epochs": 3, "minibatches": 2}])
@pytest.mark.parametrize("name", PRESETS)
def test_samples_of_several_steps_are_trained_on_with_a_bound(name: str, wishes: dict[str, int]) -> None:
    algorithm = ALGORITHMS.named(name)
    assert algorithm.gradient is not None
    found = planned(name, **wishes)
    assert found.loss == (algorithm.gradient.loss if algorithm.fixes_loss else "dppo")
    assert {name: getattr(found, name) for name in wishes} == wishes
    assert planned(name, loss="clip", **wishes).loss == "clip"
    steps = found.epochs * found.minibatches
    with pytest.raises(InvalidField, match=f"the same samples in {steps} optimizer steps: use") as refused:
        planned(name, loss="is", **wishes)
    assert refused.value.field == "gradient.loss"


def test_one_step_a_wave_may_be_named() -> None:
    assert planned("grpo", epochs=1, minibatches=1) == planned("grpo")
