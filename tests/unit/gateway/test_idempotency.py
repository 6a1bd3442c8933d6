"""One key and content is one request, and what it creates has the same ids however often it is sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from security.gateway_rig import Requests, make_rig

from mint_common.errors import InvalidField, MintError, Unavailable
from mint_common.ids import PolicyId, TenantId
from mint_common.training import UNNUMBERED
from services.gateway.core.idempotency import KeyedRequest, keyed_request, sent_key
from services.gateway.core.tinker.ids import (
    OperationId,
    check_session_id,
    keyed_session_id,
    parse_request_id,
    unnumbered_seq,
)

T1, T2 = TenantId("t1"), TenantId("t2")


def request(
    tenant_id: TenantId = T1, key: str = "k", body: bytes = b"{}", target: str = "/jobs?"
) -> KeyedRequest:
    return keyed_request(tenant_id, key, method="POST", target=target, body=body)


def test_a_repeat_is_the_same_request_and_any_other_content_tenant_or_key_another():
    others = [request(T2), request(key="l"), request(body=b"[]"), request(target="/other?")]
    assert request() == request()
    assert len({each.request_id for each in [request(), request(), *others]}) == 1 + len(others)


@pytest.mark.parametrize("key", ["", "k" * 256, "a\x00b"])
def test_an_unusable_key_is_refused(key):
    with pytest.raises(InvalidField):
        request(key=key)


def test_a_tinker_client_sends_the_key_of_its_sdk_or_ours():
    assert sent_key({"x-idempotency-key": "a"}) == "a"
    assert sent_key({"idempotency-key": "b", "x-idempotency-key": "a"}) == "b"
    assert sent_key({}) is None
    for bad in ("", "x" * 256, "a\tb"):
        with pytest.raises(InvalidField, match="X-Idempotency-Key"):
            sent_key({"x-idempotency-key": bad})


@given(st.text(max_size=255))
def test_the_number_of_a_key_fits_the_database_and_a_request_id(key: str):
    seq = unnumbered_seq(key)
    assert UNNUMBERED <= seq < 2**63
    assert unnumbered_seq(key) == seq
    told = OperationId(kind="distill", policy_id=PolicyId(f"pol_{26 * 'a'}"), seq=seq)
    assert parse_request_id(str(told)) == told


def test_a_session_of_a_key_belongs_to_its_tenant():
    mine, theirs = (keyed_session_id(tenant, "k") for tenant in (T1, T2))
    assert check_session_id(mine) == mine != theirs


class KeysInMemory(Requests):
    """Keeps what became of keys."""

    def __init__(self) -> None:
        super().__init__()
        self.fates: list[tuple[str, str]] = []

    async def release(self, request: KeyedRequest) -> None:
        """Note it."""
        self.fates.append(("released", request.key[:4]))

    async def abandon(self, request: KeyedRequest) -> None:
        """Note it."""
        self.fates.append(("abandoned", request.key[:4]))


class Fails:
    """Ends a request with an error."""

    def __init__(self, error: MintError) -> None:
        self.error = error

    async def forward(self, *_: object, **__: object) -> None:
        """Raise the error."""
        raise self.error


@pytest.mark.parametrize(
    ("header", "error", "fate"),
    [
        (("x-stainless-retry-count", "0"), Unavailable(what="Postgres", problem="cut"), ("released", "sdk:")),
        (("x-stainless-retry-count", "0"), InvalidField(field="a", problem="b"), ("abandoned", "sdk:")),
        (("idempotency-key", "mine"), Unavailable(what="Postgres", problem="cut"), ("released", "mine")),
    ],
)
async def test_a_key_that_repeats_have_to_find_stays_when_its_answer_may_be_lost(header, error, fate) -> None:
    rig, requests = make_rig(), KeysInMemory()
    rig.http.state.gateway.requests = requests
    rig.http.state.gateway.rollout = Fails(error)
    body = b'{"model": "tiny", "training_file": "file-a"}'
    answer = await rig.ask("POST", "/v1/fine_tuning/jobs", "all", headers=[header], body=body)
    assert (answer.status, requests.fates) == (503 if error.retryable else 400, [fate])
