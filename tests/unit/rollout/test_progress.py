"""What is read off a job's waves: its step, its reward and its best revision."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rollout.core.progress import best_revision, progress_of
from services.rollout.core.wave import WaveState
from tests.unit.rollout.world import history


@given(rewards=st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_the_best_revision_has_the_highest_reward_of_its_own_samples(rewards: list[float]) -> None:
    best = best_revision(history(rewards))
    if len(rewards) == 1:
        assert best is None  # the bare base was sampled
        return
    assert best is not None
    assert best.reward == max(rewards[1:])
    assert rewards[best.step - 1] == best.reward
    assert best.number == best.step - 1


def test_a_revision_that_several_steps_sampled_has_their_mean_reward() -> None:
    waves = history([0.0, 0.9, 0.1, 0.6], idle=[2])
    best = best_revision(waves)
    assert best is not None
    assert (best.number, best.reward) == (2, 0.6)


@pytest.mark.parametrize("published", [0, 2])
def test_progress_counts_finished_steps(published: int) -> None:
    waves = history([0.25, 0.5, 0.75])[: published + 1]
    waves[-1] = replace(waves[-1], revision=None, state=WaveState.COMPLETED, metrics={})
    progress = progress_of(waves)
    assert (progress.step, progress.reward, progress.started_at) == (published, 0.25 * (published + 1), 1.0)
    assert progress_of([]).started_at is None


def test_imitation_has_no_best_revision() -> None:
    assert progress_of(history([1.0, 1.0])).best is not None
    assert progress_of(history([1.0, 1.0]), is_sampled=False).best is None
