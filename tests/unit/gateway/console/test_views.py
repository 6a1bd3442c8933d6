"""What the console computes: curves, numbers in words, advice, digests."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.console.advice import advice_for
from services.gateway.core.console.curves import HEIGHT, MAX_POINTS, WIDTH, curves_of, joined, phases_of
from services.gateway.core.console.finding import digest_in
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
        points = [tuple(map(float, point.split(","))) for point in curve.points("reward_mean").split()]
        assert len(points) == len(known)
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)


def test_a_long_job_is_drawn_with_its_first_and_last_step():
    steps = [{"step": at + 1, "loss": float(at)} for at in range(12_345)]
    (curve,) = curves_of(steps)
    assert len(curve.steps) <= MAX_POINTS + 1
    assert (curve.steps[0], curve.steps[-1]) == (1, 12_345)


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
        (short("sha256:" + "ab" * 32), "abababababab"),
        (likelihood([]), "0"),
        (likelihood([-0.1]), "0"),
        (likelihood([-9.0]), "4"),
    ],
)
def test_values_in_words(shown, text):
    assert shown == text


def test_a_digest_is_found_in_what_is_pasted():
    digest = "0f" * 32
    for text in (digest, f"sha256:{digest}", f'"x-mint-revision": "SHA256:{digest.upper()}"'):
        assert digest_in(text) == f"sha256:{digest}"
    assert digest_in("0f" * 33) == digest_in("") == digest_in("sha256:") == ""


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
