"""One row of a bench can be asked for by its name."""

import pytest

from benches.__main__ import BENCHES, ROWS, main
from benches.machine import ROOT


@pytest.mark.parametrize("bench", ROWS)
def test_every_row_that_can_be_asked_for_is_one_of_its_bench(bench: str) -> None:
    assert bench in BENCHES
    source = (ROOT / "benches" / f"{bench}.py").read_text()
    assert [row for row in ROWS[bench] if f'"{row}"' not in source] == []


def test_a_row_is_of_one_bench() -> None:
    names = [row for rows in ROWS.values() for row in rows]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("arguments", [["--only", "nonsense"], ["fleet", "--only", "staircase_ratio"]])
def test_a_row_that_there_is_not_is_refused_by_name(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert arguments[-1] in capsys.readouterr().err


def test_a_catalog_too_small_to_be_measured_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["catalog", "--policies", "2000"])
    assert ended.value.code == 2
    assert "at least 10000" in capsys.readouterr().err
