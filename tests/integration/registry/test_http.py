"""The registry's routes: answers, errors that name what was asked, tenants apart."""

import asyncio

import msgspec
import pytest

from mint_common.authority import Authority, Caller
from mint_common.catalog import KeyOwner
from mint_common.events import AliasMoved, EvaluationRecorded
from mint_common.ids import sha256_digest
from tests.integration.registry.rig import BASE, KEY, TENANT, RunningRegistry, body_of
from tests.testing.adapters import make_base_facts

pytestmark = pytest.mark.integration

POLICIES = f"/tenants/{TENANT}/policies"
P = f"{POLICIES}/p"
BY = {"reason": "looks good"}


async def test_bootstrap_key_belongs_to_the_default_tenant(registry: RunningRegistry) -> None:
    owner = await registry.ask("POST", "/keys/verify", {"key": KEY})
    scopes = ["read", "infer", "train", "admin", "operator"]
    bootstrap = {"tenant_id": "default", "key_id": "key_bootstrap", "name": "bootstrap", "scopes": scopes}
    assert owner == bootstrap
    error = await registry.refused("POST", "/keys/verify", {"key": "tml-wrong"}, status=401)
    assert error["code"] == "unauthorized"
    assert "tml-wrong" not in str(error)


async def test_issued_key_is_verified_and_only_its_hash_is_kept(registry: RunningRegistry) -> None:
    tenant = await registry.ask("POST", "/tenants", {"name": "acme"}, status=201)
    assert await registry.ask("POST", "/tenants", {"name": "acme"}, status=201) == tenant
    assert isinstance(tenant, dict)
    path = f"/tenants/{tenant['tenant_id']}/keys"
    operator = _caller(await registry.ask("POST", "/keys/verify", {"key": KEY}))
    issued = await registry.ask("POST", path, {"name": "ci"}, status=201, caller=operator)
    assert isinstance(issued, dict)
    assert issued["key"].startswith("tml-")
    assert len(issued["key"]) > 40
    owner = await registry.ask("POST", "/keys/verify", {"key": issued["key"]})
    assert owner == {name: value for name, value in issued.items() if name != "key"}
    rows = await registry.pool.fetch("SELECT * FROM api_keys")
    assert issued["key"] not in str([dict(row) for row in rows])
    await registry.refused("POST", "/tenants/ten_none/keys", {"name": "ci"}, status=404, caller=operator)
    await registry.refused("POST", path, {}, status=422, caller=operator)
    await registry.ask("DELETE", f"{path}/{issued['key_id']}", status=204, caller=operator)
    await registry.refused("POST", path, {"name": "more"}, status=401, caller=_caller(owner))


def _caller(owner: object) -> Caller:
    """Return who a verified key stands for, as the gateway tells it."""
    known = msgspec.convert(owner, KeyOwner)
    return Caller(authority=Authority.of(known), name=known.name)


async def test_internal_routes_need_the_token(registry: RunningRegistry) -> None:
    answer = await registry.http.get("/internal/bases", headers={"x-mint-internal-token": "guess"})
    assert answer.status_code == 401
    assert (await registry.http.get("/healthz", headers={"x-mint-internal-token": ""})).status_code == 200
    assert (await registry.http.get("/readyz")).status_code == 200


async def test_base_is_registered_once(registry: RunningRegistry) -> None:
    path = f"/bases/{BASE.name}"
    first = await registry.ask("PUT", path, body_of(BASE))
    assert await registry.ask("PUT", path, body_of(BASE)) == first
    assert await registry.ask("GET", path) == first
    assert await registry.ask("GET", "/bases") == [first]
    changed = {**body_of(BASE), "digest": sha256_digest(b"retrained")}
    assert (await registry.refused("PUT", path, changed, status=422))["code"] == "base_changed"
    assert "gravel" in str(await registry.refused("GET", "/bases/gravel", status=404))
    assert (await registry.refused("PUT", "/bases/other", body_of(BASE), status=422))["field"] == "name"
    dotted = {**body_of(BASE), "name": "a.b"}
    assert (await registry.refused("PUT", "/bases/a.b", dotted, status=422))["field"] == "name"


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("name", {"name": "Upper"}),
        ("name", {"name": "pebble"}),
        ("name", {"name": "pol_" + "a" * 26}),
        ("lora.rank", {"lora": {"rank": 5, "alpha": 4.0, "seed": 1}}),
        ("lora.rank", {"lora": {"rank": "two", "alpha": 4.0, "seed": 1}}),
        ("lora.targets", {"lora": {"rank": 2, "alpha": 4.0, "seed": 1, "targets": ["lm_head"]}}),
        ("lora.dropout", {"lora": {"rank": 2, "alpha": 4.0, "seed": 1, "dropout": 0.5}}),
        ("rank", {"rank": 2}),
        ("lora", {"lora": None}),
    ],
)
async def test_wrong_policy_names_its_field_and_makes_nothing(
    registry: RunningRegistry, field: str, change: dict[str, object]
) -> None:
    await registry.ask("PUT", f"/bases/{BASE.name}", body_of(BASE))
    body = {"name": "p", "base": BASE.name, "lora": {"rank": 2, "alpha": 4.0, "seed": 1}, **change}
    error = await registry.refused("POST", POLICIES, body, status=422)
    assert (error["code"], error["field"]) == ("invalid_field", field)
    assert await registry.ask("GET", POLICIES) == []


async def test_policy_is_made_listed_and_found(registry: RunningRegistry) -> None:
    policy_id = await registry.make_policy()
    found = await registry.ask("GET", P)
    assert isinstance(found, dict)
    assert found["latest"] is None
    assert found["lora"] == {"rank": 2, "alpha": 4.0, "targets": list(BASE.targets), "seed": 1}
    assert await registry.ask("GET", f"{POLICIES}/{policy_id}") == found
    body = {"name": "p", "base": BASE.name, "lora": {"rank": 2, "alpha": 4.0, "seed": 1}}
    assert (await registry.refused("POST", POLICIES, body, status=422))["code"] == "already_exists"
    unknown = await registry.refused("POST", POLICIES, {**body, "base": "gravel"}, status=404)
    assert unknown["name"] == "gravel"
    for number in range(3):
        await registry.make_policy(f"q{number}")
    page = await registry.ask("GET", f"{POLICIES}?limit=2&after=p")
    assert isinstance(page, list)
    assert [item["name"] for item in page] == ["q0", "q1"]
    for limit in ("0", "1001", "x"):
        error = await registry.refused("GET", f"{POLICIES}?limit={limit}", status=422)
        assert error["field"] == "limit"


async def test_another_tenants_objects_are_not_found(registry: RunningRegistry) -> None:
    policy_id = await registry.make_policy()
    await registry.publish(policy_id, 1)
    await registry.ask("PUT", f"{P}/aliases/prod", {"revision": 1, **BY})
    score = {"revision": 1, "suite": "s", "metric": "m", "value": 1.0, "n": 1}
    for key in ("p", policy_id):
        theirs = f"/tenants/ten_other/policies/{key}"
        for path in ("", "/revisions", "/revisions/1", "/aliases", "/aliases/prod", "/evaluations"):
            assert (await registry.refused("GET", theirs + path, status=404))["name"] == key
        await registry.refused("PUT", f"{theirs}/aliases/prod", {"revision": 1, **BY}, status=404)
        await registry.refused("POST", f"{theirs}/aliases/prod/rollback", BY, status=404)
        await registry.refused("POST", f"{theirs}/evaluations", score, status=404)
    for model in ("p", "p@prod", "p@1"):
        await registry.refused("GET", f"/tenants/ten_other/resolve?model={model}", status=404)
    assert await registry.ask("GET", "/tenants/ten_other/policies") == []


async def test_revisions_are_found_by_number_and_digest(registry: RunningRegistry) -> None:
    policy_id = await registry.make_policy()
    one, two = await registry.publish(policy_id, 2)
    for key in ("2", two.revision.digest):
        found = await registry.ask("GET", f"{P}/revisions/{key}")
        assert isinstance(found, dict)
        assert found["digest"] == two.revision.digest
        assert (found["job_id"], found["wave_id"], found["metrics"]) == ("job_1", "wave_2", {"loss": 0.25})
    page = await registry.ask("GET", f"{P}/revisions?limit=1&after=1")
    assert isinstance(page, list)
    assert [item["number"] for item in page] == [2]
    missing = ("3", "0", "99999999999", "latest", sha256_digest(b"none"), "%00")
    for key in missing:
        error = await registry.refused("GET", f"{P}/revisions/{key}", status=404)
        assert error["name"] == ("\0" if key == "%00" else key)
    policy = await registry.ask("GET", P)
    assert isinstance(policy, dict)
    assert policy["latest"]["number"] == 2
    assert one.revision.number == 1


async def test_alias_walks_through_its_history(registry: RunningRegistry) -> None:
    policy_id = await registry.make_policy()
    one, two = await registry.publish(policy_id, 2)
    alias = f"{P}/aliases/prod"
    await registry.refused("GET", alias, status=404)
    first = {"revision": 1, "expected": "", **BY}
    await registry.ask("PUT", alias, first)
    error = await registry.refused("PUT", alias, {**first, "revision": 2}, status=412)
    assert error["found"] == one.revision.digest
    await registry.ask("PUT", alias, {"revision": two.revision.digest, "expected": one.revision.digest, **BY})
    rolled = await registry.ask("POST", f"{alias}/rollback", BY)
    assert isinstance(rolled, dict)
    assert (rolled["revision"]["number"], rolled["sequence"]) == (1, 3)
    assert [move["number"] for move in rolled["history"]] == [1, 2, 1]
    assert rolled["history"][2]["previous"] == two.revision.digest
    assert rolled["history"][2]["actor"] == "ann"
    assert (await registry.refused("POST", f"{alias}/rollback", BY, status=422))["field"] == "alias"
    events = [await registry.next_event() for _ in range(3)]
    assert all(isinstance(event, AliasMoved) for event in events)
    listed = await registry.ask("GET", f"{P}/aliases")
    assert isinstance(listed, list)
    assert [(item["alias"], item["revision"]["number"]) for item in listed] == [("prod", 1)]


@pytest.mark.parametrize(
    ("status", "alias", "body"),
    [
        (404, "prod", {"revision": 9, **BY}),
        (404, "prod", {"revision": "newest", **BY}),
        (422, "7", {"revision": 1, **BY}),
        (422, "Prod", {"revision": 1, **BY}),
        (422, "prod", {"revision": 1.5, **BY}),
        (422, "prod", {"revision": 1, "reason": "a\0b"}),
        (422, "prod", {"revision": 1, "expected": "junk", **BY}),
        (422, "prod", {"revision": 1, "force": True, **BY}),
    ],
)
async def test_wrong_move_is_refused(
    registry: RunningRegistry, status: int, alias: str, body: dict[str, object]
) -> None:
    policy_id = await registry.make_policy()
    await registry.publish(policy_id, 1)
    await registry.refused("PUT", f"{P}/aliases/{alias}", body, status=status)
    assert await registry.ask("GET", f"{P}/aliases") == []


async def test_racing_moves_have_one_winner_each(registry: RunningRegistry) -> None:
    policy_id = await registry.make_policy()
    one, two, three = [event.revision for event in await registry.publish(policy_id, 3)]
    await registry.ask("PUT", f"{P}/aliases/prod", {"revision": 1, **BY})

    async def move(worker: int) -> int:
        target = (two, three)[worker % 2]
        body = {"revision": target.number, "expected": one.digest, "reason": f"w{worker}"}
        answer = await registry.http.put(f"/internal{P}/aliases/prod", json=body)
        return answer.status_code

    statuses = await asyncio.gather(*(move(worker) for worker in range(8)))
    assert sorted(statuses) == [200] + [412] * 7
    alias = await registry.ask("GET", f"{P}/aliases/prod")
    assert isinstance(alias, dict)
    assert alias["sequence"] == len(alias["history"]) == 2


async def test_model_names_mean_what_the_grammar_says(registry: RunningRegistry) -> None:
    policy_id = await registry.make_policy()
    resolve = f"/tenants/{TENANT}/resolve?model="
    base = {"base": BASE.name, "policy_id": None, "policy_name": None, "revision": None}
    assert await registry.ask("GET", resolve + BASE.name) == base
    error = await registry.refused("GET", resolve + "p", status=404)
    assert (error["code"], error["message"]) == ("no_revision", "Policy 'p' has no revision yet.")
    await registry.refused("GET", resolve + "p@prod", status=404)
    await registry.publish(policy_id, 3)

    async def number(model: str) -> int:
        answer = await registry.ask("GET", resolve + model)
        assert isinstance(answer, dict)
        assert (answer["base"], answer["policy_id"], answer["policy_name"]) == (BASE.name, policy_id, "p")
        found: int = answer["revision"]["number"]
        return found

    assert await number("p") == 3
    await registry.ask("PUT", f"{P}/aliases/prod", {"revision": 1, **BY})
    await registry.ask("PUT", f"{P}/aliases/canary", {"revision": 2, **BY})
    assert await number("p") == await number("p@prod") == 1
    assert await number("p@canary") == 2
    assert await number("p@3") == 3
    revision = await registry.ask("GET", f"{P}/revisions/2")
    assert isinstance(revision, dict)
    assert await number(f"p@{revision['digest']}") == 2
    assert await number(f"{policy_id}@3") == 3
    for model in ("q", "p@4", "p@beta", f"p@{sha256_digest(b'none')}", f"{BASE.name}@prod", "p@", "", "P"):
        assert (await registry.refused("GET", resolve + model, status=404))["code"] == "not_found"


async def test_base_that_comes_later_does_not_take_over_a_policys_name(registry: RunningRegistry) -> None:
    policy_id = await registry.make_policy("boulder")
    late = make_base_facts(name="boulder")
    await registry.ask("PUT", "/bases/boulder", body_of(late))
    error = await registry.refused("GET", f"/tenants/{TENANT}/resolve?model=boulder", status=404)
    assert error["code"] == "no_revision"
    await registry.publish(policy_id, 1)
    found = await registry.ask("GET", f"/tenants/{TENANT}/resolve?model=boulder")
    assert isinstance(found, dict)
    assert found["policy_id"] == policy_id


async def test_evaluations_are_recorded_once_and_told(registry: RunningRegistry) -> None:
    policy_id = await registry.make_policy()
    await registry.publish(policy_id, 1)
    score = {"revision": 1, "suite": "heldout", "metric": "accuracy", "value": 0.75, "n": 100}
    first = await registry.ask("POST", f"{P}/evaluations", score, status=201)
    assert await registry.ask("POST", f"{P}/evaluations", score, status=201) == first
    second = await registry.ask("POST", f"{P}/evaluations", {**score, "value": 0.5}, status=201)
    assert await registry.ask("GET", f"{P}/evaluations") == [first, second]
    assert isinstance(first, dict)
    after = f"{P}/evaluations?after={first['evaluation_id']}"
    assert await registry.ask("GET", after) == [second]
    event = await registry.next_event()
    assert isinstance(event, EvaluationRecorded)
    assert (event.digest, event.value) == (first["digest"], 0.75)
    for change, status in (({"revision": 2}, 404), ({"n": 0}, 422), ({"value": "high"}, 422)):
        await registry.refused("POST", f"{P}/evaluations", {**score, **change}, status=status)


async def test_database_refuses_to_change_history(registry: RunningRegistry) -> None:
    policy_id = await registry.make_policy()
    await registry.publish(policy_id, 1)
    await registry.ask("PUT", f"{P}/aliases/prod", {"revision": 1, **BY})
    for statement in ("UPDATE alias_history SET actor = 'eve'", "DELETE FROM alias_history"):
        with pytest.raises(Exception, match="append-only"):
            await registry.pool.execute(statement)
