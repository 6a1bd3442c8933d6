"""Which rows of a file a preview takes."""

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import InvalidField
from mint_common.ids import TenantId
from services.gateway.core.files import previews
from services.gateway.core.files.previews import rows_from


async def chunked(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@given(
    lines=st.lists(st.sampled_from([b"", b" ", b"{}", b'{"a": 1}']), max_size=12),
    size=st.integers(1, 9),
    first=st.integers(1, 14),
    count=st.integers(1, 5),
)
async def test_rows_are_the_first_lines_that_are_not_blank(lines, size, first, count) -> None:
    found = await rows_from(chunked(b"\n".join(lines), size), first_line=first, count=count)
    expected = [(number, line) for number, line in enumerate(lines, 1) if number >= first and line.strip()]
    assert [(row.line, row.data) for row in found] == expected[:count]


async def test_rows_of_a_preview_are_bounded_together_but_for_the_first(monkeypatch) -> None:
    monkeypatch.setattr(previews, "MAX_BYTES", 10)
    data = b"x" * 20 + b"\n" + b"y" * 5
    assert [row.line for row in await rows_from(chunked(data, 7), first_line=1, count=5)] == [1]
    assert [row.line for row in await rows_from(chunked(data, 7), first_line=2, count=5)] == [2]


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
