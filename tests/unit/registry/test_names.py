"""The grammar of names."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import InvalidField, NotFound
from mint_common.ids import derive_id, sha256_digest
from mint_common.names import alias_key, check_alias_name, check_policy_name, policy_key, revision_key
from services.registry.core.names import ModelName, parse_model

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
DIGEST = sha256_digest(b"x")


@pytest.mark.parametrize(
    ("model", "parsed"),
    [
        ("tiny", ModelName(name="tiny")),
        ("my-policy_1.2", ModelName(name="my-policy_1.2")),
        ("p@prod", ModelName(name="p", alias="prod")),
        ("p@12", ModelName(name="p", revision=12)),
        ("p@2147483647", ModelName(name="p", revision=2**31 - 1)),
        (f"p@{DIGEST}", ModelName(name="p", revision=DIGEST)),
        ("p@1a", ModelName(name="p", alias="1a")),
    ],
)
def test_model_names_are_parsed(model: str, parsed: ModelName) -> None:
    assert parse_model(model) == parsed


@pytest.mark.parametrize(
    "model",
    [
        *("", "@prod", "p@", "p@0", "p@01", "p@2147483648", "p@99999999999999999999", "p@sha256:12", "p@a@b"),
        *("P", "p@PROD", f"p@{DIGEST.upper()}", "-p", "p/../q", "p\n", "p@prod\n", "p\0", "a" * 64),
        *("p@\u0663", "\u00e4"),
    ],
)
def test_what_names_nothing_is_not_found(model: str) -> None:
    with pytest.raises(NotFound):
        parse_model(model)


@given(model=st.text(max_size=100))
def test_any_text_is_parsed_or_not_found(model: str) -> None:
    with suppress(NotFound):
        assert parse_model(model).name == model.partition("@")[0]


@given(name=NAMES, alias=NAMES)
def test_every_alias_name_can_be_selected(name: str, alias: str) -> None:
    try:
        check_alias_name(alias)
    except InvalidField:
        assert alias.isdecimal()
    else:
        assert parse_model(f"{name}@{alias}") == ModelName(name=name, alias=alias)


@given(name=NAMES)
def test_every_policy_name_can_be_a_model_name(name: str) -> None:
    check_policy_name(name)
    assert parse_model(name) == ModelName(name=name)
    assert policy_key(name) == name


def test_policy_cannot_be_named_like_an_id() -> None:
    with pytest.raises(InvalidField, match="looks like a policy id"):
        check_policy_name(derive_id("pol", "x"))
    assert policy_key(derive_id("pol", "x"))


@pytest.mark.parametrize("name", ["", "Prod", "1", "007", "9" * 11, "a@b", "sha256:x", "a" * 64, "prod\n"])
def test_alias_that_would_be_ambiguous_is_refused(name: str) -> None:
    with pytest.raises(InvalidField):
        check_alias_name(name)


@pytest.mark.parametrize("text", ["", "0", "01", "-1", "1.0", "latest", "sha256:", "\0", "1\n"])
def test_revision_key_that_is_none_is_not_found(text: str) -> None:
    with pytest.raises(NotFound):
        revision_key(text)


def test_keys_that_could_not_exist_are_not_found() -> None:
    for check in (policy_key, alias_key):
        with pytest.raises(NotFound):
            check("no\0such")
    assert revision_key("3") == 3
    assert revision_key(DIGEST) == DIGEST
