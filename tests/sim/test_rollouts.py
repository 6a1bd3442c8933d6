"""Jobs whose sampling runs ahead, on a simulated fleet: the bound of staleness holds and every job ends."""

import pytest

from tests.sim.rollouts import Setting, Simulation

SMALL = Setting(policies=3, engines=2, seats=8, episodes=4, trainers=2, failures_per_hour=200, disorder=0.3)


@pytest.mark.parametrize("staleness", [0, 1, 2, 4])
def test_no_schedule_trains_on_older_samples_than_the_bound(staleness: int) -> None:
    for seed in range(20):
        setting = Setting(**{**vars_of(SMALL), "staleness": staleness})
        found = Simulation(setting, seed).run()
        assert found.ended == setting.policies
        assert sum(found.lags.values()) == setting.policies * setting.steps
        assert max(found.lags) <= staleness
        assert found.most_ahead <= staleness + 1


def test_running_ahead_fills_a_fleet_that_alternating_leaves_idle() -> None:
    setting = {**vars_of(SMALL), "policies": 20, "engines": 10, "seats": 32, "episodes": 16, "trainers": 8}
    sync, ahead = (Simulation(Setting(**{**setting, "staleness": k}), 1).run() for k in (0, 2))
    assert ahead.seconds < 0.75 * sync.seconds


def vars_of(setting: Setting) -> dict[str, float]:
    return {name: getattr(setting, name) for name in Setting.__slots__}
