"""Idempotency-Keys and the audit log, on every route that changes something."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from mint_common.ids import TenantId
from mint_common.runtime.postgres import migrate, open_pool
from services.gateway.adapters.requests_postgres import PostgresRequests
from services.gateway.core.idempotency import (
    KEPT_SECONDS,
    LEASE_SECONDS,
    IdempotencyConflict,
    RequestAtWork,
    StoredAnswer,
    TakenKey,
    keyed_request,
)
from services.gateway.http.edge.recording import keeping
from tests.testing.clock import ManualClock

pytestmark = pytest.mark.integration


@pytest.fixture
def mint(stack, counter):
    with stack.client() as client:
        yield client


def test_same_key_and_content_is_one_request_with_one_answer(mint):
    body, headers = {"name": "once", "base": "tiny"}, {"idempotency-key": "make-once"}
    first = mint.post("/policies", json=body, headers=headers)
    again = mint.post("/policies", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    other = mint.post("/policies", json=body | {"name": "twice"}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_conflict")
    assert mint.get("/policies/twice").status_code == 404


def test_error_leaves_its_key_free(mint):
    headers = {"idempotency-key": "fix-me"}
    assert mint.post("/policies", json={"name": "fixed", "base": "none"}, headers=headers).status_code == 404
    assert mint.post("/policies", json={"name": "fixed", "base": "tiny"}, headers=headers).status_code == 201


def test_key_of_one_tenant_is_nothing_to_another(stack, mint):
    body, headers = {"name": "shared-key", "base": "tiny"}, {"idempotency-key": "shared"}
    mine = mint.post("/policies", json=body, headers=headers).json()
    with stack.client(key=stack.other_key) as other:
        assert other.post("/policies", json=body, headers=headers).json()["policy_id"] != mine["policy_id"]


def test_racing_repeats_record_one_score(stack, mint):
    score = {"revision": 1, "suite": "race", "metric": "m", "value": 0.5, "n": 1}
    url, headers = "/policies/counter/aliases/raced", {"idempotency-key": "race-alias"}

    def move(_: int) -> int:
        with stack.client() as client:
            return client.post(f"{url}/rollback", headers=headers).status_code

    for revision in (1, 2, 3):
        mint.put(url, json={"revision": revision})
    with ThreadPoolExecutor(8) as threads:
        codes = set(threads.map(move, range(8)))
    assert codes <= {200, 503}
    assert 200 in codes
    assert mint.get(url).json()["revision"]["number"] == 2, "eight repeats are one step back"
    assert mint.post("/policies/counter/evaluations", json=score, headers=headers).status_code == 422


def test_answer_with_a_secret_is_never_stored(mint):
    refused = mint.post("/keys", json={"name": "x"}, headers={"idempotency-key": "k"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "Idempotency-Key")


def test_audit_log_says_what_a_refused_body_was_answered(mint):
    assert mint.post("/policies", json={"name": 5}).status_code == 422
    assert mint.post("/policies", content=b"{").status_code == 422
    rows = mint.get("/audit", params={"limit": 2}).json()
    assert [row["status"] for row in rows] == [422, 422]


async def test_key_is_kept_while_its_request_is_at_work(database):
    pool, clock = await open_pool(database, schema="gateway"), ManualClock()
    await migrate(pool, schema="gateway", package="services.gateway.adapters.migrations")
    requests = PostgresRequests(pool, clock)
    slow, other = (
        keyed_request(TenantId("t"), "k", method="POST", target=path, body=b"")
        for path in ("/slow", "/other")
    )
    begun = await requests.begin(slow)
    assert begun == TakenKey(first_at=clock.now(), is_repeat=False)
    async with keeping(requests, slow, clock):
        for _ in range(10):
            await clock.advance(LEASE_SECONDS / 4)
            async with asyncio.timeout(60):
                while await pool.fetchval("SELECT begun_at FROM requests") < clock.now():
                    await asyncio.sleep(0.01)
            with pytest.raises(RequestAtWork):
                await requests.begin(slow)
            with pytest.raises(IdempotencyConflict):
                await requests.begin(other)
    await clock.advance(2 * LEASE_SECONDS)
    with pytest.raises(IdempotencyConflict):
        await requests.begin(other)  # what says nothing has crashed, and what it did is not known
    again = await requests.begin(slow)
    assert again == TakenKey(first_at=begun.first_at, is_repeat=True)
    assert slow.cause(again) == slow.cause(begun)
    await clock.advance(KEPT_SECONDS + 1)
    assert await requests.begin(other) == TakenKey(first_at=clock.now(), is_repeat=False)
    await requests.finish(slow, StoredAnswer(status=200, content_type="text/plain", body=b"late"))
    await requests.abandon(slow)
    with pytest.raises(RequestAtWork):
        await requests.begin(other)
    await pool.close()


async def test_a_released_key_is_free_and_found(database):
    pool, clock = await open_pool(database, schema="gateway"), ManualClock()
    await migrate(pool, schema="gateway", package="services.gateway.adapters.migrations")
    requests, tenant = PostgresRequests(pool, clock), TenantId("released")
    first = keyed_request(tenant, "sdk:key:1", method="POST", target="/jobs", body=b"{}")
    assert isinstance(await requests.begin(first), TakenKey)
    await clock.advance(1)
    await requests.release(first)
    since = clock.now() - 3600
    assert await requests.find(tenant, prefix="sdk:key:", sha256=first.sha256, since=since) == first.key
    assert isinstance(await requests.begin(first), TakenKey)
    answer = StoredAnswer(status=200, content_type="text/plain", body=b"made")
    await requests.finish(first, answer)
    await requests.release(first)
    assert await requests.begin(first) == answer, "an answer stays"
    await pool.close()


def test_audit_log_names_a_key_by_its_id_and_never_holds_it(mint):
    made = mint.post("/keys", json={"name": "ci", "scopes": ["read"]}).json()
    (row,) = mint.get("/audit", params={"limit": 1}).json()
    assert row["object"] == made["key_id"]
    assert made["key"] not in str(row)


def test_audit_log_says_who_changed_what_and_how_it_went(stack, mint):
    mint.post("/policies", json={"name": "audited", "base": "tiny"})
    mint.post("/policies", json={"name": "audited", "base": "tiny"})
    rows = mint.get("/audit", params={"limit": 2}).json()
    assert [(row["method"], row["path"], row["status"], row["object"]) for row in rows] == [
        ("POST", "/mint/v1/policies", 422, ""),
        ("POST", "/mint/v1/policies", 201, "audited"),
    ]
    assert {row["actor"] for row in rows} == {"bootstrap"}
    (older,) = mint.get("/audit", params={"limit": 1, "before": rows[0]["place"]}).json()
    assert older == rows[1]
    with stack.client(key=stack.other_key) as other:
        assert "/mint/v1/policies/audited" not in str(other.get("/audit").json())
