"""The projection of a wave from the events that name it."""

from hypothesis import given
from hypothesis import strategies as st

from mint_common.events import Event, WaveRequested
from services.rollout.core.job import wave_id_of
from services.rollout.core.wave import Wave, WaveState, fold
from tests.testing.factories import BASE, JOB, LORA, POLICY, SPEC, TENANT, make_claim
from tests.unit.rollout.test_job import cancelled, completed
from tests.unit.rollout.world import published, rejected, training_failed

REQUESTED = WaveRequested(
    tenant_id=TENANT,
    base=BASE,
    wave_id=wave_id_of(JOB, 1),
    job_id=JOB,
    policy_id=POLICY,
    step=1,
    revision=None,
    prompts=make_claim("waves/1.prompts"),
    lora=LORA,
    spec=SPEC,
)
LATER: tuple[Event, ...] = (completed(1), published(1), rejected(1), training_failed(1), cancelled(1))


def _fold(*events: Event) -> Wave | None:
    wave = None
    for now, event in enumerate(events):
        wave = fold(wave, event, now=float(now))
    return wave


def test_a_published_wave_keeps_its_reward_and_the_trainers_metrics() -> None:
    wave = _fold(REQUESTED, completed(1), published(1))
    assert wave is not None
    assert (wave.state, wave.reward_mean, wave.revision) == (WaveState.PUBLISHED, 0.5, published(1).revision)
    assert wave.metrics == published(1).metrics
    assert (wave.requested_at, wave.completed_at, wave.published_at) == (0.0, 1.0, 2.0)


def test_a_wave_that_was_never_requested_stays_unknown() -> None:
    assert _fold(*LATER) is None


@given(events=st.lists(st.sampled_from((REQUESTED, *LATER)), max_size=12), again=st.sampled_from(LATER))
def test_repeating_an_event_changes_nothing(events: list[Event], again: Event) -> None:
    once = _fold(REQUESTED, *events, again)
    assert fold(once, again, now=99.0) == once
    assert fold(once, REQUESTED, now=99.0) == once
