"""Which wave a session takes next, and what it is afterwards."""

from dataclasses import replace

import pytest

from mint_common.claims import Claim
from mint_common.errors import AlreadyHandled, Unavailable
from mint_common.events import JobSpec, LoraSpec, WaveCompleted
from mint_common.ids import BaseName, Digest, JobId, PolicyId, TenantId, WaveId
from services.trainer.core.refusals import WaveForeign
from services.trainer.core.session import check_turn, open_session

ONE, TWO = (Digest("sha256:" + digit * 64) for digit in "12")
CLAIM = Claim(uri="checkpoints/p/1-w/x.safetensors", sha256="0" * 64, size_bytes=1)
WAVE = WaveCompleted(
    tenant_id=TenantId("default"),
    base=BaseName("tiny"),
    wave_id=WaveId("wave_1"),
    job_id=JobId("job_1"),
    policy_id=PolicyId("policy_1"),
    step=1,
    revision=None,
    record=Claim(uri="waves/1", sha256="0" * 64, size_bytes=1),
    reward_mean=0.0,
    lora=LoraSpec(rank=8, alpha=16.0, targets=("q_proj",), seed=0),
    spec=JobSpec(
        algorithm="grpo",
        task="mode:copy",
        steps=2,
        prompts_per_step=8,
        group_size=16,
        max_new_tokens=8,
        temperature=1.0,
        learning_rate=2e-3,
        kl_coefficient=0.0,
        clip_norm=1.0,
        seed=0,
    ),
)


@pytest.mark.parametrize("trained", [0, 1, 7])
def test_the_next_step_of_the_job_is_due(trained: int) -> None:
    check_turn(open_session(WAVE), replace(WAVE, step=trained + 1), trained_step=trained)


def test_a_wave_from_the_future_waits() -> None:
    with pytest.raises(Unavailable, match="step 3 is not due") as caught:
        check_turn(open_session(WAVE), replace(WAVE, step=3), trained_step=1)
    assert caught.value.retryable


def test_a_wave_of_the_past_is_handled_already() -> None:
    with pytest.raises(AlreadyHandled):
        check_turn(open_session(WAVE), replace(WAVE, step=2), trained_step=2)


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant_id": TenantId("other")},
        {"base": BaseName("other")},
        {"lora": replace(WAVE.lora, rank=4)},
    ],
)
def test_a_wave_of_another_tenant_base_or_shape_is_foreign(changes: dict[str, TenantId]) -> None:
    with pytest.raises(WaveForeign):
        check_turn(open_session(WAVE), replace(WAVE, **changes), trained_step=0)


def test_lineage_advances_with_new_bytes_only() -> None:
    first = open_session(WAVE).after(step=1, checkpoint=CLAIM, digest=ONE)
    assert (first.digest, first.parent, first.waves) == (ONE, None, 1)
    same = first.after(step=1, checkpoint=CLAIM, digest=ONE)
    assert (same.digest, same.parent, same.waves) == (ONE, None, 2)
    second = same.after(step=2, checkpoint=CLAIM, digest=TWO)
    assert (second.digest, second.parent, second.waves) == (TWO, ONE, 3)
