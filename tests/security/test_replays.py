"""The answer that an Idempotency-Key had before goes only to keys that have the route's scope."""

from security.gateway_rig import make_rig

from services.gateway.core.idempotency import StoredAnswer

KEYED = [("idempotency-key", "nightly")]


async def test_a_stored_answer_is_given_only_behind_key_and_scope():
    rig = make_rig()
    rig.requests.stored = StoredAnswer(status=201, content_type="application/json", body=b'{"made": 1}')
    rules = "/mint/v1/policies/p/rules"
    replayed = await rig.ask("POST", rules, "admin", headers=KEYED)
    assert (replayed.status, replayed.json()) == (201, {"made": 1})
    for keys, status in ((("read",), 403), (("train",), 403), (("unknown",), 401), ((), 401)):
        answer = await rig.ask("POST", rules, *keys, headers=KEYED)
        assert answer.status == status
        assert "idempotency-replayed" not in answer.headers


async def test_who_may_not_is_in_the_audit_log():
    rig = make_rig()
    await rig.ask("POST", "/mint/v1/policies/p%0a/rules", "read")
    (row,) = rig.requests.rows
    assert (row.key_id, row.status, row.path) == ("key_read", 403, "/mint/v1/policies/p%0A/rules")
