"""A job's steps as a trace: lanes never overlap, and training lies behind its samples."""

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mint_client.core.job_trace import TRAIN, trace_of

seconds = st.floats(0.1, 10.0)


def job_of(times: list[tuple[float, float, float]], *, ahead: int) -> dict[str, Any]:
    """Return a job whose steps sample, wait and train this long, ``ahead`` of training."""
    steps: list[dict[str, Any]] = []
    for number, (sampling, waiting, training) in enumerate(times, start=1):
        begin = steps[number - 2 - ahead]["published_at"] if number > 1 + ahead else 0.0
        sampled = begin + sampling
        before = steps[-1]["published_at"] if steps else 0.0
        steps.append(
            {
                "step": number,
                "requested_at": begin,
                "completed_at": sampled,
                "published_at": max(sampled, before) + waiting + training,
                "seconds": training,
                "revision": {"number": number},
            }
        )
    return {"job_id": "job_1", "steps": steps}


@given(times=st.lists(st.tuples(seconds, seconds, seconds), min_size=1, max_size=12), ahead=st.integers(0, 3))
def test_each_lane_shows_one_thing_at_a_time(times: list[tuple[float, float, float]], ahead: int) -> None:
    events = [one for one in trace_of(job_of(times, ahead=ahead))["traceEvents"] if one["ph"] == "X"]
    assert len(events) == 2 * len(times)
    lanes: dict[int, list[dict[str, Any]]] = {}
    for event in events:
        lanes.setdefault(event["tid"], []).append(event)
    assert len(lanes[TRAIN]) == len(times)
    assert len(lanes) <= ahead + 2
    for own in lanes.values():
        ordered = sorted(own, key=lambda one: one["ts"])
        assert all(one["ts"] + one["dur"] <= two["ts"] + 2 for one, two in pairwise(ordered))


def test_a_step_that_is_sampled_yet_is_left_out() -> None:
    job = job_of([(1.0, 1.0, 1.0)], ahead=0)
    job["steps"].append({"step": 2, "requested_at": 3.0, "completed_at": None, "published_at": None})
    names = [event["name"] for event in trace_of(job)["traceEvents"] if event["ph"] == "X"]
    assert names == ["sample step 1", "train step 1"]
