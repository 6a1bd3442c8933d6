"""Where a download of merged weights begins, and what names its bytes."""

import pytest

from mint_common.ids import Digest
from services.gateway.core.mint.merged import first_byte, merged_tag

TAG = merged_tag(Digest("sha256:" + "a" * 64))


def test_a_tag_is_of_one_revision() -> None:
    assert merged_tag(Digest("sha256:" + "b" * 64)) != TAG
    assert TAG[0] == TAG[-1] == '"'


@pytest.mark.parametrize(
    ("wanted", "if_range", "expected"),
    [
        (None, None, 0),
        (None, TAG, 0),
        ("bytes=0-", None, 0),
        ("bytes=17-", None, 17),
        ("bytes=17-", TAG, 17),
        ("bytes=17-", '"other"', 0),
        ("bytes=17-", f"W/{TAG}", 0),
        ("bytes=17-20", None, 0),
        ("bytes=-17", None, 0),
        ("bytes=1-,5-", None, 0),
        ("Bytes=17-", None, 0),
        ("bytes=٣-", None, 0),
        (f"bytes={'9' * 40}-", None, 0),
        ("", None, 0),
    ],
)
def test_one_kind_of_range_is_heard(wanted: str | None, if_range: str | None, expected: int) -> None:
    assert first_byte(wanted, if_range, tag=TAG) == expected
