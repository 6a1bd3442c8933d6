"""What a worker of an environment reports is believed within its bounds only."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rollout.core.environment_answers import (
    MAX_REWARD,
    MAX_SCORES,
    read_info,
    read_reports,
    read_tasks,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
REPORT = st.fixed_dictionaries(
    {}, optional={"reward": JSON, "scores": JSON, "stop": JSON, "is_truncated": JSON, "error": JSON}
)


@given(st.lists(REPORT | JSON, max_size=3), st.integers(0, 3))
def test_any_answer_is_refused_or_has_finite_rewards_within_the_bound(
    answer: list[Any], episodes: int
) -> None:
    try:
        reports = read_reports(answer, episodes=episodes)
    except ValueError:
        return
    assert len(reports) == episodes
    for report in reports:
        assert (report.reward is None) == bool(report.error), "a reward, or the reason of none"
        assert report.reward is None or abs(report.reward) <= MAX_REWARD
        assert all(math.isfinite(score) for score in report.scores.values())


def test_a_report_with_an_error_has_no_reward_whatever_it_says() -> None:
    (report,) = read_reports([{"reward": 0.0, "error": "ModelError: gone"}], episodes=1)
    assert (report.reward, report.error) == (None, "ModelError: gone")
    (silent,) = read_reports([{"scores": {"a": 1}}], episodes=1)
    assert (silent.reward, silent.error) == (None, "it reported no reward")


@pytest.mark.parametrize(
    "report",
    [
        {"reward": math.nan},
        {"reward": math.inf},
        {"reward": MAX_REWARD * 1.001},
        {"reward": True},
        {"reward": "1"},
        {"reward": 1.0, "scores": {"a": math.nan}},
        {"reward": 1.0, "scores": {str(n): 1.0 for n in range(MAX_SCORES + 1)}},
        {"reward": 1.0, "stop": "x" * 10_000},
    ],
)
def test_a_report_beyond_its_bounds_is_refused(report: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_reports([report], episodes=1)


def test_draws_and_descriptions_are_of_their_types() -> None:
    entry = json.dumps({"prompt": "a"})
    (task,) = read_tasks([{"key": "3", "entry": entry}], n=1)
    assert (task.key, task.entry) == ("3", entry)
    for wrong in ([], [{"key": "3"}], [{"key": "3", "entry": "x" * ((1 << 20) + 1)}]):
        with pytest.raises(ValueError, match=r"."):
            read_tasks(wrong, n=1)
    assert read_info({"description": "d", "tasks": None, "by_group": True}).tasks is None
    with pytest.raises(ValueError, match=r"tasks"):
        read_info({"description": "d", "tasks": -1, "by_group": True})
