"""A request to the catalog whose answer is lost: its repeats get the first answer, and act no second time.

In between, the registry and the gateway are killed: nothing but what their databases have is left.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import asyncpg
import msgspec
import pytest
from contract.catalog_rig import BASE, export_of
from contract.schemas import empty_schema
from security.gateway_rig import TENANT, Answer, Registry, Rig, make_rig
from security.repeats import BY_THE_REGISTRY

from mint_common.authority import CAUSE_HEADER
from mint_common.catalog import TenantRecord
from mint_common.client.http import InternalHttp
from mint_common.client.registry import RegistryClient
from mint_common.errors import Unavailable
from services.gateway.adapters.requests_postgres import PostgresRequests
from services.gateway.core.idempotency import KEPT_SECONDS, LEASE_SECONDS
from services.gateway.http.mint.forwarding import MINT
from tests.integration.registry.rig import RunningRegistry, body_of, running, settings_of
from tests.testing.clock import ManualClock

pytestmark = pytest.mark.integration

P, A, R = "/mint/v1/policies/p", "/mint/v1/policies/p/aliases/prod", "/mint/v1/policies/p/rules"
RULE = {"alias": "prod", "suite": "s", "metric": "m", "at_least": 0.5}
SHAPE = {"base": BASE.name, "lora": {"rank": 2}}
SCORE = {"revision": 1, "suite": "s", "metric": "m", "value": 0.5, "n": 4}


class LossyHttp(InternalHttp):
    """The way to the registry, whose next answers are lost after it has acted."""

    def __init__(self, registry: RunningRegistry) -> None:
        super().__init__("http://registry", peer="registry", token="")
        self.registry = registry
        self.lost = 0
        self.causes: list[str | None] = []

    async def _send(self, method: str, url: Any, *, data: Any, headers: Any, is_long: bool) -> Any:
        answer = await self.registry.http.request(
            method, unquote(str(url)), content=data, headers=dict(headers)
        )
        if method != "GET":
            self.causes.append(headers.get(CAUSE_HEADER))
            if self.lost:
                self.lost -= 1
                raise Unavailable(what="the registry", problem="no answer in time")
        if not answer.is_success:
            raise self._error_of(answer.status_code, answer.content)
        return answer.status_code, answer.content


class DyingRequests(PostgresRequests):
    """Those of a gateway that is killed once ``is_dead``: it says nothing more."""

    is_dead = False

    async def finish(self, *args: Any) -> None:
        if not self.is_dead:
            await super().finish(*args)

    async def release(self, *args: Any) -> None:
        if not self.is_dead:
            await super().release(*args)

    async def abandon(self, *args: Any) -> None:
        if not self.is_dead:
            await super().abandon(*args)


class Resolver:
    def forget(self, *_: object) -> None: ...

    def withdraw(self, *_: object) -> None: ...


class Catalog(RegistryClient, Registry):
    """The registry's client, which knows the rig's keys."""

    def __init__(self, http: LossyHttp) -> None:
        RegistryClient.__init__(self, http)
        Registry.__init__(self)

    verify_key = Registry.verify_key


@dataclass(slots=True, kw_only=True)
class Edge:
    """A gateway that can be killed, over one registry and one database."""

    registry: RunningRegistry
    pool: asyncpg.Pool
    clock: ManualClock = field(default_factory=ManualClock)
    rig: Rig = field(default_factory=make_rig)
    way: LossyHttp = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin anew, with nothing in memory."""
        self.rig = make_rig()
        self.way = LossyHttp(self.registry)
        gateway = self.rig.http.state.gateway
        gateway.registry, gateway.resolver = Catalog(self.way), Resolver()
        gateway.requests, gateway.clock = DyingRequests(self.pool, self.clock), self.clock

    async def ask(
        self, method: str, path: str, body: object = None, *, key: str = "", headers: Sequence[Any] = ()
    ) -> Answer:
        sent = [*headers, *([("idempotency-key", key)] if key else [])]
        content = b"" if body is None else msgspec.json.encode(body)
        return await self.rig.ask(method, path, "all", headers=sent, body=content)


@pytest.fixture
async def edge(shared_database: str, nats_url: str, tmp_path: Any) -> AsyncIterator[Edge]:
    folder = tmp_path / "blobs"
    settings = settings_of(dsn=shared_database, nats_url=nats_url, blob_folder=folder)
    async with (
        empty_schema(shared_database, "registry"),
        empty_schema(shared_database, "gateway") as pool,
        running(settings, folder) as registry,
    ):
        tenant = TenantRecord(tenant_id=TENANT, name=TENANT, created_at=0.0)
        await registry.app.state.parts.accounts.add_tenant(tenant)
        made = Edge(registry=registry, pool=pool)
        await _fill(made)
        yield made


async def _fill(edge: Edge) -> None:
    """Make a policy of three revisions, all of which were ``prod`` in turn."""
    await edge.registry.ask("PUT", f"/bases/{BASE.name}", body_of(BASE))
    assert (await edge.ask("POST", "/mint/v1/policies", {"name": "p", **SHAPE})).status == 201
    catalog = edge.registry.app.state.parts.catalog
    policy = await catalog.policy(TENANT, "p")
    for seed in (1, 2, 3, 4):
        await catalog.settle_export(export_of(policy, seed), None, now=float(seed))
        if seed < 4:
            assert (await edge.ask("PUT", A, {"revision": seed})).status == 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A request, what another one changes after it, and what is looked at."""

    route: str
    method: str
    path: str
    body: object = None
    before: tuple[tuple[str, str, object], ...] = ()
    between: tuple[tuple[str, str, object], ...] = ()
    shown: str = P


CASES = [
    Case(route="policies", method="POST", path="/mint/v1/policies", body={"name": "q", **SHAPE}),
    Case(
        route="policies/{policy}",
        method="PATCH",
        path=P,
        body={"description": "mine"},
        between=(("PATCH", P, {"description": "another's"}),),
    ),
    Case(
        route="policies/{policy}/revisions/{revision}/retire",
        method="POST",
        path=f"{P}/revisions/4/retire",
        between=(("POST", f"{P}/revisions/4/restore", None),),
        shown=f"{P}/revisions/4",
    ),
    Case(
        route="policies/{policy}/revisions/{revision}/restore",
        method="POST",
        path=f"{P}/revisions/4/restore",
        before=(("POST", f"{P}/revisions/4/retire", None),),
        between=(("POST", f"{P}/revisions/4/retire", None),),
        shown=f"{P}/revisions/4",
    ),
    Case(
        route="policies/{policy}/evaluations",
        method="POST",
        path=f"{P}/evaluations",
        body=SCORE,
        between=(("POST", f"{P}/evaluations", SCORE | {"value": 0.75}),),
        shown=f"{P}/evaluations",
    ),
    Case(
        route="policies/{policy}/aliases/{alias}/protect",
        method="POST",
        path=f"{A}/protect",
        body={"protected": True},
        between=(("POST", f"{A}/protect", {"protected": False}),),
        shown=A,
    ),
    Case(
        route="policies/{policy}/aliases/{alias}/freeze",
        method="POST",
        path=f"{A}/freeze",
        body={"frozen": True},
        between=(("POST", f"{A}/freeze", {"frozen": False}),),
        shown=A,
    ),
    Case(
        route="policies/{policy}/aliases/{alias}",
        method="PUT",
        path=A,
        body={"revision": 4},
        between=(("PUT", A, {"revision": 1}),),
        shown=A,
    ),
    Case(route="policies/{policy}/aliases/{alias}", method="DELETE", path=A, shown=f"{A}/history"),
    Case(route="policies/{policy}/aliases/{alias}/rollback", method="POST", path=f"{A}/rollback", shown=A),
    Case(route="policies/{policy}/rules", method="POST", path=R, body=RULE, shown=R),
    Case(
        route="policies/{policy}/rules/{rule}/pause",
        method="POST",
        path=f"{R}/RULE/pause",
        before=(("POST", R, RULE),),
        between=(("POST", f"{R}/RULE/resume", None),),
        shown=R,
    ),
    Case(
        route="policies/{policy}/rules/{rule}/resume",
        method="POST",
        path=f"{R}/RULE/resume",
        before=(("POST", R, RULE), ("POST", f"{R}/RULE/pause", None)),
        between=(("POST", f"{R}/RULE/pause", None),),
        shown=R,
    ),
    Case(
        route="policies/{policy}/rules/{rule}",
        method="DELETE",
        path=f"{R}/RULE",
        before=(("POST", R, RULE),),
        shown=R,
    ),
]


def test_every_change_that_the_registry_makes_once_is_tried_here():
    tried = {f"{case.method} {MINT}{case.route}" for case in CASES}
    assert tried == BY_THE_REGISTRY


@pytest.mark.parametrize("how", ["the answer is lost", "the gateway is killed"])
@pytest.mark.parametrize("case", CASES, ids=[f"{case.method} {case.route}" for case in CASES])
async def test_a_repeat_gets_the_first_answer_and_changes_nothing(edge: Edge, case: Case, how: str):
    rule = ""
    for method, path, body in case.before:
        answer = await edge.ask(method, path.replace("RULE", rule), body)
        rule = answer.json().get("rule_id", rule)
    path = case.path.replace("RULE", rule)
    edge.way.lost = 1
    edge.rig.http.state.gateway.requests.is_dead = how == "the gateway is killed"
    assert (await edge.ask(case.method, path, case.body, key="k")).status == 503
    first = await edge.pool.fetchval("SELECT answer FROM registry.mint_answers")
    for method, other, body in case.between:
        assert (await edge.ask(method, other.replace("RULE", rule), body)).status < 300
    shown = (await edge.ask("GET", case.shown)).body

    edge.start()
    await edge.clock.advance(LEASE_SECONDS + 1)
    again = await edge.ask(case.method, path, case.body, key="k")
    assert again.status == (204 if case.method == "DELETE" else 201 if case.path.endswith(("s",)) else 200)
    if again.status != 204:
        assert again.json() == msgspec.json.decode(first)
    assert (await edge.ask("GET", case.shown)).body == shown, "a repeat acts no second time"
    replayed = await edge.ask(case.method, path, case.body, key="k")
    assert (replayed.body, replayed.headers["idempotency-replayed"]) == (again.body, "true")


async def test_a_key_is_free_for_a_new_request_after_a_day(edge: Edge):
    assert (await edge.ask("POST", f"{A}/rollback", key="nightly")).json()["revision"]["number"] == 2
    assert (await edge.ask("POST", f"{A}/rollback", key="nightly")).json()["revision"]["number"] == 2
    await edge.clock.advance(KEPT_SECONDS + 1)
    assert (await edge.ask("POST", f"{A}/rollback", key="nightly")).json()["revision"]["number"] == 1


async def test_other_content_does_not_take_a_key_of_unknown_outcome(edge: Edge):
    edge.way.lost = 1
    assert (await edge.ask("POST", f"{A}/rollback", key="k")).status == 503
    other = await edge.ask("POST", f"{A}/rollback", {"reason": "other"}, key="k")
    assert (other.status, other.code) == (422, "idempotency_conflict")
    await edge.clock.advance(1)
    again = await edge.ask("POST", f"{A}/rollback", key="k")
    assert again.json()["revision"]["number"] == 2


async def test_a_change_under_if_match_is_repeated_though_the_tag_has_changed(edge: Edge):
    tag = (await edge.ask("GET", P)).headers["etag"]
    edge.way.lost = 1
    asked = ("PATCH", P, {"description": "mine"})
    assert (await edge.ask(*asked, key="k", headers=[("if-match", tag)])).status == 503
    await edge.clock.advance(1)
    again = await edge.ask(*asked, key="k", headers=[("if-match", tag)])
    assert (again.status, again.json()["description"]) == (200, "mine")
    assert (await edge.ask(*asked, key="other", headers=[("if-match", tag)])).status == 412


async def test_the_second_of_two_moves_at_once_gets_the_first_answer(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
):
    edge.way.lost = 1
    assert (await edge.ask("PUT", A, {"revision": 2}, key="k")).status == 503
    first = await edge.pool.fetchval("SELECT answer FROM registry.mint_answers")
    assert (await edge.ask("PUT", A, {"revision": 1})).status == 200
    ledger, seen = edge.registry.app.state.ledger, []
    first_answer = ledger.first_answer

    async def late(cause: str) -> bytes | None:
        """Answer as before the first move was committed, once."""
        seen.append(cause)
        return None if len(seen) == 1 else await first_answer(cause)

    monkeypatch.setattr(ledger, "first_answer", late)
    await edge.clock.advance(LEASE_SECONDS + 1)
    again = await edge.ask("PUT", A, {"revision": 2}, key="k")
    assert again.json() == msgspec.json.decode(first)
    assert len(seen) > 1
