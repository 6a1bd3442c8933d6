"""What a tracker gets of a job, and what a subscriber has still to record."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_client.core.job_curves import Scalar
from mint_client.core.track_backlog import (
    MAX_PAUSE_SECONDS,
    TrackBacklog,
    TrackScope,
    Unit,
    UnitKind,
    units_of,
)
from mint_client.core.tracking import PolicyFacts, missing, model_of, rows_of, run_of

JOB = {
    "job_id": "job_a",
    "policy_id": "pol_a",
    "policy": "counter",
    "base": "tiny",
    "state": "succeeded",
    "reason": "",
    "created_at": 1.0,
    "started_at": 2.0,
    "finished_at": 9.0,
    "result": {"number": 8, "digest": "sha256:8"},
    "spec": {"algorithm": "sft", "task": "", "data": {"training": {"file_id": "file-1", "rows": 40}}},
    "fine_tuning": {"model": "tiny", "metadata": None, "lora": {"rank": 8, "targets": ["q_proj", "v_proj"]}},
    "steps": [
        {
            "step": 1,
            "state": "published",
            "loss": 2.0,
            "sampled": "sha256:6",
            "revision": {"number": 7, "digest": "sha256:7"},
            "published_at": 3.0,
        },
        {
            "step": 2,
            "state": "published",
            "loss": 1.0,
            "valid_loss": 1.5,
            "sampled": "sha256:7",
            "revision": {"number": 8, "digest": "sha256:8"},
            "published_at": 4.0,
        },
        {"step": 3, "state": "requested", "loss": None, "sampled": "sha256:8", "revision": None},
    ],
}
SCORES = [
    {"number": 8, "suite": "exam", "metric": "accuracy", "value": 0.5, "created_at": 5.0},
    {"number": 8, "suite": "exam", "metric": "accuracy", "value": 0.75, "created_at": 6.0},
    {"number": 8, "suite": "job:job_a", "metric": "valid_loss", "value": 1.5, "created_at": 4.0},
    {"number": 3, "suite": "exam", "metric": "accuracy", "value": 0.1, "created_at": 5.0},
]
FACTS = PolicyFacts(
    url="http://mint",
    base={"digest": "sha256:base"},
    scores=SCORES,
    aliases=[{"alias": "prod", "revision": {"number": 8}}],
)

scalars = st.lists(
    st.builds(
        Scalar,
        name=st.sampled_from(["train/loss", "eval/loss", "eval/exam/accuracy"]),
        step=st.integers(1, 20),
        value=st.floats(-10, 10),
        at=st.floats(1, 100) | st.none(),
    ),
    unique_by=lambda each: (each.name, each.step),
)


def test_a_run_has_settings_lineage_points_and_links() -> None:
    run = run_of(JOB, FACTS)
    assert {(each.name, each.step, each.value, each.at) for each in run.scalars} == {
        ("train/loss", 1, 2.0, 3.0),
        ("train/loss", 2, 1.0, 4.0),
        ("eval/loss", 2, 1.5, 4.0),
        ("eval/exam/accuracy", 2, 0.75, 6.0),
    }
    assert run.config["data.training.file_id"] == "file-1"
    assert (run.config["lora.targets"], run.config["lora.rank"]) == ("q_proj, v_proj", 8)
    assert "task" not in run.config
    assert run.tags["mint.parent"] == "sha256:6"
    assert (run.tags["mint.base_digest"], run.tags["mint.result"]) == ("sha256:base", "sha256:8")
    assert run.links["result"] == "http://mint/mint/v1/policies/counter/revisions/8/adapter.tar"
    assert [(each.number, each.aliases) for each in run.versions] == [(7, ()), (8, ("prod",))]


def test_a_model_has_each_revision_with_its_aliases() -> None:
    policy = {"policy_id": "pol_a", "name": "counter", "base": "tiny"}
    revisions = [{"number": 8, "digest": "sha256:8", "parent": None, "job_id": None}]
    (version,) = model_of(policy, revisions, FACTS).versions
    assert (version.number, version.parent, version.job_id, version.aliases) == (8, "", "", ("prod",))


@given(scalars, st.integers(0, 60))
def test_any_prefix_and_what_is_missing_is_the_whole(whole: list[Scalar], cut: int) -> None:
    ordered = missing(whole, set())
    logged = ordered[:cut]
    rest = missing(whole, {(each.name, each.step) for each in logged})
    assert [*logged, *rest] == ordered
    assert sorted(ordered, key=id) == sorted(whole, key=id)


@given(scalars)
def test_rows_have_each_scalar_once(whole: list[Scalar]) -> None:
    rows = list(rows_of(missing(whole, set())))
    told = [(name, step, value) for step, _, values in rows for name, value in values.items()]
    assert sorted(told) == sorted((each.name, each.step, each.value) for each in whole)
    assert [step for step, _, _ in rows] == sorted({each.step for each in whole})


def event(kind: str, **data: object) -> dict[str, object]:
    return {"type": kind, "data": {"policy_id": "pol_a", **data}}


JOB_UNIT, POLICY_UNIT = Unit(kind=UnitKind.JOB, of="job_a"), Unit(kind=UnitKind.POLICY, of="pol_a")
REVISION_UNIT = Unit(kind=UnitKind.REVISION, of="pol_a", digest="sha256:8")


@pytest.mark.parametrize(
    ("told", "units"),
    [
        (event("wave.completed", job_id="job_a"), (JOB_UNIT,)),
        (event("revision.published", job_id="job_a"), (JOB_UNIT, POLICY_UNIT)),
        (event("revision.published", job_id=None), (POLICY_UNIT,)),
        (event("alias.moved", revision={"digest": "sha256:8"}), (POLICY_UNIT, REVISION_UNIT)),
        (event("evaluation.recorded", digest="sha256:8"), (REVISION_UNIT,)),
        (event("adapter.loaded", policy_id="pol_a"), ()),
    ],
)
def test_an_event_tells_what_to_record(told: dict[str, object], units: tuple[Unit, ...]) -> None:
    assert units_of(told, TrackScope()) == units
    assert units_of(told, TrackScope(policy_id="pol_b")) == ()
    other = units_of(told, TrackScope(policy_id="pol_a", job_id="job_b"))
    assert other == tuple(unit for unit in units if unit != JOB_UNIT)


def test_a_tracker_that_is_away_is_asked_again_after_growing_bounded_pauses() -> None:
    backlog, now, pauses = TrackBacklog().noted([JOB_UNIT], place="1"), 100.0, []
    for _ in range(10):
        backlog = backlog.paused("It is away.", now=now)
        assert backlog.due(now=now) == []
        next_at = backlog.next_at()
        assert next_at is not None
        pauses.append(next_at - now)
        now = next_at
        assert backlog.due(now=now) == [JOB_UNIT]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (1.0, MAX_PAUSE_SECONDS)
    assert backlog.problems == ("It is away.",)
    assert backlog.done(JOB_UNIT).problems == ()


def test_a_refused_unit_waits_alone() -> None:
    backlog = TrackBacklog().noted([JOB_UNIT, POLICY_UNIT], place="1").refused(JOB_UNIT, "No.", now=10.0)
    assert backlog.due(now=10.0) == [POLICY_UNIT]
    assert backlog.problems == ("job_a: No.",)
    assert backlog.noted([JOB_UNIT], place="2").waiting == backlog.waiting
    assert backlog.done(POLICY_UNIT).next_at() == 11.0


@given(st.lists(st.sampled_from([JOB_UNIT, POLICY_UNIT, REVISION_UNIT]), max_size=8))
def test_units_wait_once(units: list[Unit]) -> None:
    backlog = TrackBacklog()
    for place, unit in enumerate(units):
        backlog = backlog.noted([unit], place=str(place))
    assert [each.unit for each in backlog.waiting] == list(dict.fromkeys(units))
