"""The slopes of bench soak."""

import random

import pytest

from benches.soak import BOUNDS, COMES_AND_GOES, UNITS
from benches.soak_samples import fit_slope


def test_a_slope_is_per_thousand_operations_and_its_interval_holds_it() -> None:
    rng = random.Random(1)
    operations = [100.0 * n for n in range(40)]
    values = [500.0 + 0.0035 * each + rng.gauss(0, 0.5) for each in operations]
    slope = fit_slope(operations, values)
    assert slope.per_1000 == pytest.approx(3.5, abs=0.3)
    assert slope.interval[0] < 3.5 < slope.interval[1]
    assert slope.n == 40
    assert not slope.is_flat


def test_what_stays_is_flat() -> None:
    slope = fit_slope([1.0, 2.0, 3.0], [7.0, 7.0, 7.0])
    assert slope.is_flat
    assert (slope.per_1000, slope.interval) == (0.0, (0.0, 0.0))


def test_every_kind_has_a_bound_and_a_unit() -> None:
    assert UNITS.keys() == COMES_AND_GOES.keys()
    assert {name.partition(" ")[0] for name in BOUNDS} == UNITS.keys()
    assert UNITS.keys() <= BOUNDS.keys()
