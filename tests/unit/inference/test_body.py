"""The strict reading of a body: no two parsers read an accepted one differently."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import InvalidField
from mint_common.inference.body import MAX_DEPTH, MAX_NESTED, read_body


def refused(body: bytes) -> InvalidField:
    with pytest.raises(InvalidField) as caught:
        read_body(body)
    return caught.value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"nul",
        b'{"a":',
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": "\\ud800"}',
        b'{"a": "\\ude00\\ud83d"}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": "\xc0\x80"}',
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        b'{"a": 1} {}',
        b'{"a": 1,}',
        b'{"a": 01}',
        b'{"a": "\x00"}',
        b"{'a': 1}",
        b'{"a": 1} // a',
        b'{"a": 1}\x00',
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert refused(body).field == "body"


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": 1, "a": 1}',
        b'{"model": "m", "n": 1, "\\u006e": 5}',
        b'{"a": {"b": 1, "c": {"d": 2}, "c": 3}}',
        b'{"a": [1, [{"b": ":", "b": "\\"a\\":1"}]]}',
        b'{"a": {"": 1, "": 2}, "x:y": "\\\\"}',
        b'{"a": 1, "text": "a:b:c", "a": [{"b": {"c": 1}}]}',
    ],
)
def test_an_object_that_names_a_key_twice_is_refused(body: bytes) -> None:
    assert "twice" in refused(body).problem


@pytest.mark.parametrize("number", ["1e400", "-1E999", "9" * 60_000])
@pytest.mark.parametrize("value", ["%s", '{"a":%s}', '[{"b":[{"const":%s}]}]'])
def test_a_number_out_of_range_is_refused_by_the_name_of_its_field(value: str, number: str) -> None:
    assert refused(f'{{"model": "m", "tools": {value % number}}}'.encode()).field == "tools"


def test_depth_and_number_are_counted_outside_texts() -> None:
    text = r"\" [ { \\" + "[{:" * 20_000
    assert read_body(json.dumps({"a": text}).encode()) == {"a": text}
    deep: object = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert "deeper" in refused(json.dumps({"a": deep}).encode()).problem
    assert "lists and objects" in refused(json.dumps({"a": [[]] * MAX_NESTED}).encode()).problem


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


@given(value=st.dictionaries(st.text(), json_values, max_size=5), escaped=st.booleans(), spaces=st.booleans())
def test_any_other_object_is_read(value: dict[str, Any], escaped: bool, spaces: bool) -> None:
    separators = (" , ", " :\n") if spaces else (",", ":")
    assert read_body(json.dumps(value, ensure_ascii=escaped, separators=separators).encode()) == value


@given(value=st.dictionaries(st.text(), json_values, min_size=1, max_size=5), data=st.data())
def test_a_key_that_is_written_again_anywhere_is_refused(value: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(value)))
    again = f"{json.dumps(value)[:-1]}, {json.dumps(name)}: {json.dumps(data.draw(json_values))}}}"
    assert "twice" in refused(again.encode()).problem
    assert "twice" in refused(f'{{"a": [{again}]}}'.encode()).problem
