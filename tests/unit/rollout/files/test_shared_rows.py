"""Rows that a training file and a validation file share, found by a process that reads both as they come."""

import json
import random
from collections.abc import AsyncIterator, Mapping

import pytest

from mint_common.datasets import Repeats
from mint_common.errors import Unavailable
from services.rollout.adapters.rows_check import RowsCheckProcess
from services.rollout.core.fine_tuning.plan import leak_warnings


async def parts(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def rows_of(random_: random.Random, count: int) -> tuple[bytes, Mapping[str, int]]:
    """Return a file of numbered rows, each written in one of two ways, and where each is first."""
    lines, first = [b"\xef\xbb\xbf" if random_.random() < 0.5 else b""], dict[str, int]()
    number = 0
    for _ in range(count):
        number += 1
        if random_.random() < 0.2:
            lines.append(random_.choice((b"\n", b"  \r\n")))
            continue
        text = str(random_.randrange(count))
        fields = [("prompt", text), ("completion", "é")]
        random_.shuffle(fields)
        lines.append(json.dumps(dict(fields), ensure_ascii=random_.random() < 0.5).encode())
        lines.append(random_.choice((b"\n", b"\r\n")))
        first.setdefault(text, number)
    return b"".join(lines).rstrip(b"\r\n"), first


@pytest.mark.parametrize("seed", range(3))
async def test_shared_rows_are_those_that_a_dictionary_finds(seed: int) -> None:
    random_ = random.Random(seed)
    training, first = rows_of(random_, 300)
    validation, _ = rows_of(random_, 80)
    expected = []
    for line, text in enumerate(validation.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if text.strip() and (prompt := json.loads(text)["prompt"]) in first:
            expected.append((line, first[prompt]))
    found = await RowsCheckProcess().shared(
        parts(training, 997), parts(validation, 13), validation_bytes=len(validation)
    )
    assert found == Repeats(count=len(expected), pairs=tuple(expected[:100]))
    assert expected


async def test_files_that_cannot_be_compared_are_told() -> None:
    with pytest.raises(Unavailable):
        await RowsCheckProcess().shared(parts(b"no JSON", 7), parts(b"{}", 2), validation_bytes=2)


def test_a_leak_is_told_with_its_first_lines() -> None:
    assert leak_warnings(Repeats(count=0, pairs=())) == ()
    assert leak_warnings(Repeats(count=1, pairs=((3, 7),))) == (
        "1 row of the validation file is in the training file too: line 3 (7 there)",
    )
    many = Repeats(count=12, pairs=tuple((n, n + 1) for n in range(1, 13)))
    (told,) = leak_warnings(many)
    assert told.startswith(
        "12 rows of the validation file are in the training file too: lines 1 (2 there), 2"
    )
    assert told.endswith(", 10 (11 there), ...")
