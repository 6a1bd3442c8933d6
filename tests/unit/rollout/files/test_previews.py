"""Which rows of a file a preview takes."""

import itertools
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.datasets import RowLine
from mint_common.errors import InvalidField
from mint_common.ids import TenantId
from services.rollout.core.files import previews
from services.rollout.core.files.previews import RowsFrom


def chunked(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def rows_from(chunks: Iterator[bytes], *, first_line: int, count: int) -> list[RowLine]:
    rows = RowsFrom(first_line=first_line, count=count)
    return rows.finish() if all(map(rows.feed, chunks)) else rows.rows


@given(
    lines=st.lists(st.sampled_from([b"", b" ", b"{}", b'{"a": 1}']), max_size=12),
    size=st.integers(1, 9),
    first=st.integers(1, 14),
    count=st.integers(1, 5),
)
def test_rows_are_the_first_lines_that_are_not_blank(lines, size, first, count) -> None:
    found = rows_from(chunked(b"\n".join(lines), size), first_line=first, count=count)
    expected = [(number, line) for number, line in enumerate(lines, 1) if number >= first and line.strip()]
    assert [(row.line, row.data) for row in found] == expected[:count]


def test_a_long_line_before_the_first_is_passed_over() -> None:
    data = b"x" * (3 << 20) + b"\n{}\n"
    for first in (1, 2):
        assert [row.line for row in rows_from(chunked(data, 1 << 20), first_line=first, count=5)] == [2]
    assert rows_from(chunked(data, 1 << 20), first_line=3, count=5) == []


def test_rows_of_a_preview_are_bounded_together_but_for_the_first(monkeypatch) -> None:
    monkeypatch.setattr(previews, "MAX_BYTES", 10)
    data = b"x" * 20 + b"\n" + b"y" * 5
    assert [row.line for row in rows_from(chunked(data, 7), first_line=1, count=5)] == [1]
    assert [row.line for row in rows_from(chunked(data, 7), first_line=2, count=5)] == [2]


@pytest.mark.parametrize("first_line", [1, 2, 300_000, 1 << 40])
def test_lines_before_and_between_rows_take_no_memory(first_line) -> None:
    data = b'{"a": 1}\n' + b"\n" * (1 << 18)
    tracemalloc.start()
    found = rows_from(itertools.chain([data], [data]), first_line=first_line, count=5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    later = (1 << 18) + 2
    assert [row.line for row in found] == [line for line in (1, later) if line >= first_line]
    assert peak < 4 << 20


def test_a_file_that_is_no_rows_has_no_preview() -> None:
    file = previews.FileRecord(
        file_id="file-a",
        tenant_id=TenantId("ten_a"),
        filename="a",
        purpose="evals",
        sha256="",
        size_bytes=1,
        created_at=0,
        expires_at=None,
        format=None,
        rows=None,
        repeats=None,
    )
    with pytest.raises(InvalidField, match="uploaded for evals"):
        previews.check_is_rows(file)
