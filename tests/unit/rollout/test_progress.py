"""Which revision a job's waves name as its best."""

from hypothesis import given
from hypothesis import strategies as st

from services.rollout.core.progress import best_revision
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
