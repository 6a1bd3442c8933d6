"""A job's steps as a timeline for Perfetto and chrome://tracing.

The format is Chrome's Trace Event Format: complete events (``ph`` X), in microseconds, on a thread per lane.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Step = Mapping[str, Any]  # the gateway's JSON
TRAIN = 0
"""The lane of training; those of sampling follow, as many as steps were sampled at a time."""
_SHOWN = ("reward_mean", "staleness", "sampled_number", "loss", "tokens", "trained_tokens")


def trace_of(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job's trace: when each step was sampled, waited and was trained."""
    events = [*_steps(job["steps"])]
    lanes = {event["tid"] for event in events} | {TRAIN}
    names = [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": lane, "args": {"name": _lane_name(lane)}}
        for lane in sorted(lanes)
    ]
    process = {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": job["job_id"]}}
    return {"displayTimeUnit": "ms", "traceEvents": [process, *names, *events]}


def _lane_name(lane: int) -> str:
    return "training" if lane == TRAIN else f"sampling {lane}"


def _steps(steps: Sequence[Step]) -> Iterator[dict[str, Any]]:
    free_at: list[float] = []
    for step in steps:
        begin, sampled, trained = step["requested_at"], step.get("completed_at"), step.get("published_at")
        if sampled is None:
            continue
        lane = next((one for one, end in enumerate(free_at) if end <= begin), len(free_at))
        free_at[lane:] = [sampled, *free_at[lane + 1 :]]
        yield _span(step, "sample", begin, sampled, lane=lane + 1)
        if trained is not None:
            training = min(float(step.get("seconds") or 0.0), trained - sampled)
            yield _span(step, "train", trained - training, trained, lane=TRAIN)


def _span(step: Step, what: str, begin: float, end: float, *, lane: int) -> dict[str, Any]:
    revision = step.get("revision") or {}
    numbers = {name: step[name] for name in _SHOWN if step.get(name) is not None}
    return {
        "ph": "X",
        "cat": what,
        "name": f"{what} step {step['step']}",
        "pid": 1,
        "tid": lane,
        "ts": round(begin * 1e6),
        "dur": round(max(0.0, end - begin) * 1e6),
        "args": numbers | {"revision": revision.get("number")},
    }
