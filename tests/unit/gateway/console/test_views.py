"""What the console computes: curves, numbers in words, advice, digests."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.console.advice import NAMED, advice_for
from services.gateway.core.console.curves import HEIGHT, MAX_POINTS, WIDTH, curves_of, joined, phases_of
from services.gateway.core.console.quota_rows import quota_rows
from services.gateway.core.console.rule_views import SHOWN, decisions_of, scores_for, verdict
from services.gateway.core.console.words import likelihood, number, short, size, span
from services.gateway.http.console.pages.signing_in import own_page

VALUES = st.none() | st.floats() | st.integers(-(10**6), 10**6)


@given(st.lists(VALUES, min_size=1, max_size=50))
def test_a_curve_stays_in_its_frame_and_shows_what_is_known(values):
    steps = [{"step": at + 1, "reward_mean": value} for at, value in enumerate(values)]
    known = [value for value in values if value is not None and math.isfinite(value)]
    curves = curves_of(steps)
    assert bool(curves) == bool(known)
    for curve in curves:
        (line,) = curve.lines()
        points = [tuple(map(float, point.split(","))) for point in line.split()]
        assert len(points) == len(known)
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)


def test_a_long_job_is_drawn_with_its_first_and_last_step():
    steps = [{"step": at + 1, "loss": float(at)} for at in range(12_345)]
    (curve,) = curves_of(steps)
    assert len(curve.steps) <= MAX_POINTS + 1
    assert (curve.steps[0], curve.steps[-1]) == (1, 12_345)


def test_a_staleness_that_is_always_zero_has_no_chart():
    assert curves_of([{"step": 1, "staleness": 0}, {"step": 2, "staleness": 0}]) == []
    (curve,) = curves_of([{"step": 1, "staleness": 0}, {"step": 2, "staleness": 1}])
    assert curve.series == {"staleness": (0, 1)}


def test_curves_of_jobs_share_one_axis():
    one = curves_of([{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}])
    other = curves_of([{"step": 2, "loss": 5.0}, {"step": 4, "loss": 4.0}])
    (curve,) = joined({"a": one, "b": other})
    assert curve.steps == (1, 2, 4)
    assert curve.series == {"a loss": (3.0, 2.0, None), "b loss": (None, 5.0, 4.0)}


def test_seconds_of_phases_are_added_up():
    assert phases_of(
        [{"phase_seconds": {"sample": 1.5}}, {"phase_seconds": {"sample": 2, "train": 1}}, {}]
    ) == {
        "sample": 3.5,
        "train": 1,
    }


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (number(None), "\N{EN DASH}"),
        (number(1234567), "1,234,567"),
        (number(0.123456), "0.1235"),
        (number(math.nan), "nan"),
        (size(1536), "1.5 KiB"),
        (size(7), "7 B"),
        (span(0.25), "250 ms"),
        (span(3725), "1 h 2 min"),
        (span(86400 * 3), "3 d 0 h"),
        (short("sha256:" + "ab" * 32), "ab" * 8),
        (likelihood([]), "0"),
        (likelihood([-0.1]), "0"),
        (likelihood([-9.0]), "4"),
    ],
)
def test_values_in_words(shown, text):
    assert shown == text


@given(st.text(max_size=60))
def test_signing_in_leads_to_the_console_alone(address):
    assert own_page(address).split("?")[0].split("/")[:2] == ["", "console"]
    assert own_page("//evil.example") == own_page("/console\\evil") == "/console"


def test_advice_names_what_is_wrong_and_what_to_do():
    load = {"loads_waiting": 9, "host_bytes": 99, "host_bytes_capacity": 100}
    engines = [
        {"engine_id": "e1", "state": "restarting", "retry_after_seconds": 5, "load": None},
        {"engine_id": "e2", "state": "serving", "load": load},
    ]
    jobs = [
        {"job_id": "job_1", "policy": "p", "state": "failed", "reason": "no learning signal"},
        {"job_id": "job_2", "policy": "p", "state": "running", "waits_for": "an agent"},
        {"job_id": "job_3", "policy": "p", "state": "succeeded", "reason": ""},
    ]
    texts = [one.text for one in advice_for(engines, jobs)]
    assert len(texts) == 5
    assert "no learning signal" in texts[3]
    assert advice_for([], []) == []


def test_quotas_are_told_in_words_and_near_ones_are_advised():
    rows = quota_rows(
        [
            {"name": "keys", "used": 95, "limit": 100},
            {"name": "adapter_bytes", "used": 1 << 30, "limit": 1 << 40},
            {"name": "job_seconds", "used": 90.0, "limit": None},
            {"name": "open_jobs", "used": 200, "limit": 100},
            {"name": "of tomorrow", "used": 0, "limit": 3},
        ]
    )
    assert [(row.used, row.limit) for row in rows] == [
        ("95", "100"),
        ("1.0 GiB", "1.0 TiB"),
        ("1 min 30 s", "\N{EN DASH}"),
        ("200", "100"),
        ("0", "3"),
    ]
    assert [row.is_near for row in rows] == [True, False, False, True, False]
    assert [one.text for one in advice_for([], [], quotas=rows)] == [
        "API keys: 95 of 100 are used.",
        "Open jobs: 200 of 100 are used.",
    ]


def test_revisions_that_cannot_be_served_come_first_and_are_not_told_without_end():
    one = {"policy": "a/b", "number": 3, "fault": None, "aliases": ["prod", "best"]}
    advice = advice_for([], [], [one, {**one, "fault": "missing", "aliases": []}])
    assert "quarantined" in advice[0].text
    assert "prod, best" in advice[0].text
    assert advice[0].page == "/console/policies/a%2Fb/revisions/3"
    assert "its stored bytes are missing" in advice[1].text
    many = advice_for([], [], [one] * 50)
    assert (len(many), many[-1].page) == (NAMED + 1, "/console/faulty")


def test_a_rule_s_moves_and_scores_are_found_in_a_timeline():
    rules = [{"rule_id": "r1", "suite": "s", "metric": "m"}, {"rule_id": "r2", "suite": "s", "metric": "n"}]
    events = [
        {"kind": "alias.moved", "actor": "rule:r1", "subject": "prod"},
        {"kind": "alias.moved", "actor": "a person", "subject": "prod"},
        *[{"kind": "evaluation.recorded", "actor": "", "subject": "s/n", "revision": n} for n in range(99)],
    ]
    assert decisions_of(rules, events) == {"r1": events[:1], "r2": []}
    assert [score["revision"] for score in scores_for(rules, events)["r2"]] == list(range(SHOWN))


@pytest.mark.parametrize(
    ("value", "of_larger", "of_smaller"),
    [
        (0.2, "rolls back the live revision", "good enough"),
        (0.25, "not good enough", "good enough"),
        (0.4, "not good enough", "not good enough"),
        (0.5, "good enough", "not good enough"),
        (0.6, "good enough", "rolls back the live revision"),
    ],
)
def test_a_score_means_the_same_to_a_rule_of_losses_mirrored(value, of_larger, of_smaller):
    nothing = dict.fromkeys(("at_least", "roll_back_below", "at_most", "roll_back_above"))
    assert verdict({**nothing, "at_least": 0.5, "roll_back_below": 0.25}, value) == of_larger
    assert verdict({**nothing, "at_most": 0.25, "roll_back_above": 0.5}, value) == of_smaller
    unbounded = verdict({**nothing, "at_least": 0.5}, value)
    assert unbounded == ("good enough" if value >= 0.5 else "not good enough")
