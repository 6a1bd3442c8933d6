"""Entity tags: equal answers have equal tags, and headers are read as RFC 9110 says."""

import json

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.etags import etag_of, is_expected, is_known

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_tag_tells_values_apart(one: object, two: object) -> None:
    # As text: in Python False == 0, in JSON they differ.
    texts = [json.dumps(value, sort_keys=True) for value in (one, two)]
    assert (etag_of([one]) == etag_of([two])) == (texts[0] == texts[1])


def test_order_of_fields_makes_no_difference() -> None:
    assert etag_of({"a": 1, "b": 2}) == etag_of({"b": 2, "a": 1})


def test_headers_name_tags() -> None:
    tag = etag_of(1)
    for header in (tag, f'"x", {tag}', f"W/{tag}", "*"):
        assert is_known(header, tag)
    for header in (tag, f'"x",{tag}', "*"):
        assert is_expected(header, tag)
    for header in ('"x"', f"W/{tag}", tag.strip('"'), ""):
        assert not is_expected(header, tag)
    assert not is_known('"x", W/"y"', tag)
