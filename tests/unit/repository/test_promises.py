"""Each promise of docs/design/promises.md names tests that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs/design/promises.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| promise")
]


def named(cell: str) -> list[Path]:
    """Return the paths that a cell names; a bare file name stands beside the path before it."""
    paths: list[Path] = []
    for name in re.findall(r"`([^`]+)`", cell):
        paths.append(ROOT / name if "/" in name else paths[-1].parent / name)
    return paths


def has_tests(path: Path) -> bool:
    files = sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
    return any(file.is_file() and re.search(r"\bdef test_", file.read_text()) for file in files)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:50])
def test_a_promise_names_tests_that_exist(row: list[str]) -> None:
    promise, how, tests = row
    assert promise
    assert how
    assert named(tests)
    assert [str(path) for path in named(tests) if not has_tests(path)] == []
