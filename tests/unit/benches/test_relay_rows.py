"""What the bench of relays tells: the same rows for each, and processor time as the kernel counts it."""

import resource
import subprocess
import sys
from collections.abc import Collection

import pytest

from benches.loader_relay import FIGURES, Rates, _names, _rows
from benches.processors import tree_seconds
from benches.relays import FOREIGN, OWN

BURNING = "sum(range(10**7)); print(flush=True); input()"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURNING!r}])"


def names(relays: Collection[str]) -> set[str]:
    found = {relay: [Rates(tokens=2.0, requests=1.0)] for relay in relays}
    return {row.name for figure in FIGURES for row in _rows(figure, found)}


@pytest.mark.parametrize("absent", FOREIGN)
def test_the_rows_of_a_relay_that_is_not_here_are_left_out_by_name(absent: str) -> None:
    every = (*OWN, *FOREIGN)
    assert names(every) - names([each for each in every if each != absent]) == set(_names(absent))


def test_the_processor_time_of_a_process_has_that_of_its_children() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as made:
        assert made.stdout is not None
        made.stdout.readline()
        seconds = tree_seconds(made.pid)
        made.communicate(b"\n")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert 0.5 * whole < seconds < whole + 0.02
