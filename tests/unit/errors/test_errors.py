"""Errors: one code each, statuses that clients do not repeat by mistake, messages from their fields."""

import copy
import pickle

import pytest

from mint_common import errors
from mint_common.errors import (
    MintError,
    NotFound,
    Overloaded,
    RemoteError,
    UploadRefused,
    error_from_payload,
    trace_of,
)

KINDS = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MintError)),
    key=lambda kind: kind.__name__,
)
REPEATED_BY_CLIENTS = {408, 409, 429, *range(500, 600)}


def test_no_two_errors_share_a_code() -> None:
    codes = [kind.code for kind in KINDS]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_clients_repeat_only_what_a_repetition_may_help(kind: type[MintError]) -> None:
    if kind.retryable:
        assert kind.http_status in REPEATED_BY_CLIENTS
    elif kind.http_status in REPEATED_BY_CLIENTS:
        assert kind.code in {"internal", "already_handled", "remote_error"}, "a bug of ours, never a user's"


def test_the_docstring_is_the_message_and_the_fields_are_attributes() -> None:
    error = Overloaded(what="the queue", depth=3, retry_after_seconds=2)
    assert str(error) == "the queue is full (3 waiting): try again in 2 s."
    assert error.depth == 3
    assert error.to_payload() == {
        "code": "overloaded",
        "message": str(error),
        "retryable": True,
        "what": "the queue",
        "depth": 3,
        "retry_after_seconds": 2,
    }


def test_a_missing_field_is_noticed_where_the_error_is_made() -> None:
    with pytest.raises(KeyError):
        NotFound(kind="policy")
    with pytest.raises(AttributeError):
        _ = NotFound(kind="policy", name="p").depth


def test_an_error_survives_copies_and_processes() -> None:
    error = NotFound(kind="policy", name="{braces}")
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(twin), str(twin), twin.fields) == (NotFound, str(error), error.fields)


def test_a_refused_upload_has_the_code_of_its_reason_and_keeps_it() -> None:
    error = UploadRefused(reason="pickle", problem="p", fix="Do this.")
    assert error.to_payload()["code"] == "upload_refused.pickle"
    assert UploadRefused.code == "upload_refused"
    assert pickle.loads(pickle.dumps(error)).code == error.code


def test_where_an_error_was_raised_is_told_with_its_causes_and_without_texts() -> None:
    def inner() -> None:
        raise KeyError("secret")

    def outer() -> None:
        try:
            inner()
        except KeyError as error:
            raise ValueError("secret") from error

    with pytest.raises(ValueError, match="secret") as one:
        outer()
    told = trace_of(ExceptionGroup("secret", [one.value]))
    assert "secret" not in told
    group, value, key = told.split("; from ")
    assert (group, value.split(" < ")[0].rpartition(":")[0]) == (
        "ExceptionGroup at ",
        "ValueError at test_errors.py",
    )
    assert [step.split()[-1] for step in key.split(" < ")] == ["inner", "outer"]


def test_an_error_of_a_newer_peer_is_a_remote_error() -> None:
    for payload in (
        {"code": "brand_new", "message": "m", "retryable": True},
        {"code": "not_found", "message": "fields of another version"},
        {},
    ):
        error = error_from_payload(payload, what="the registry")
        assert isinstance(error, RemoteError)


def test_an_error_keeps_the_kind_behind_its_code() -> None:
    refused = UploadRefused(reason="pickle", problem="p", fix="Do this.")
    error = error_from_payload(refused.to_payload())
    assert (type(error), error.to_payload()) == (UploadRefused, refused.to_payload())
