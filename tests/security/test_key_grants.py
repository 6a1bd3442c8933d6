"""No sequence of calls gives anybody a scope that its maker lacked, or takes a greater key out of use."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, get_args

import asyncpg
from contract.catalog_rig import NOW, OTHER, TENANT
from contract.schemas import empty_schema
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from mint_common.authority import Authority, held_scopes
from mint_common.catalog import FULL_SCOPES, KeyOwner, Scope, TenantRecord
from mint_common.errors import Forbidden, NotFound, Unauthorized
from services.registry.adapters.accounts_postgres import PostgresAccounts
from services.registry.core.keys import hash_key, stored_key

SCOPES: tuple[Scope, ...] = get_args(Scope)
PARTIES: dict[str, tuple[str, tuple[Scope, ...]]] = {
    "operator": (TENANT, (*FULL_SCOPES, "operator")),
    "bare operator": (TENANT, ("operator",)),
    "admin": (TENANT, ("admin",)),
    "admin of another tenant": (OTHER, ("admin", "read")),
    "trainer": (TENANT, ("train", "read")),
}
"""Who begins with which key."""


class Keys(RuleBasedStateMachine):
    """Parties that try everything with all the keys that they have ever been given."""

    def __init__(self, runner: asyncio.Runner, pool: asyncpg.Pool) -> None:
        super().__init__()
        self.run = runner.run
        self.accounts = PostgresAccounts(pool)
        self.run(pool.execute("DELETE FROM api_keys"))
        self.known: dict[str, set[str]] = {}
        """The texts of keys that each party knows."""
        self.scopes: dict[str, tuple[Scope, ...]] = {}
        """What each key was made with, by its id."""
        self.made = 0
        for party, (tenant_id, scopes) in PARTIES.items():
            key = stored_key(party, key_id=party, tenant_id=tenant_id, name=party, now=NOW, scopes=scopes)
            self.run(self.accounts.put_key(key))
            self.known[party] = {party}
            self.scopes[party] = scopes

    @rule(
        data=st.data(),
        scopes=st.sets(st.sampled_from(SCOPES), min_size=1),
        tenant=st.sampled_from([TENANT, OTHER]),
    )
    def make(self, data: st.DataObject, scopes: set[Scope], tenant: str) -> None:
        party, by = self.somebody(data)
        if by is None:
            return
        text = self.fresh()
        key = stored_key(text, key_id=text, tenant_id=tenant, name=text, now=NOW, scopes=tuple(scopes))
        if self.attempt(self.accounts.add_key(key, by)):
            self.known[party].add(text)
            self.scopes[text] = tuple(scopes)

    @rule(data=st.data())
    def rotate(self, data: st.DataObject) -> None:
        party, by = self.somebody(data)
        if by is None:
            return
        text, key_id = self.fresh(), data.draw(st.sampled_from(sorted(self.scopes)))
        key = stored_key(text, key_id=key_id, tenant_id=by.tenant_id, name="", now=NOW)
        if self.attempt(self.accounts.replace_key(key, by)):
            assert held_scopes(self.scopes[key_id]) <= held_scopes(by.scopes)
            self.known[party].add(text)

    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        _, by = self.somebody(data)
        if by is None:
            return
        key_id = data.draw(st.sampled_from(sorted(self.scopes)))
        if self.attempt(self.accounts.revoke_key(by.tenant_id, key_id, by, now=NOW)):
            assert held_scopes(self.scopes[key_id]) <= held_scopes(by.scopes)

    @invariant()
    def nobody_holds_more_than_at_the_beginning(self) -> None:
        known = [(party, text) for party, texts in self.known.items() for text in texts]
        for (party, _), owner in zip(known, self.run(self.owners(text for _, text in known)), strict=True):
            tenant_id, scopes = PARTIES[party]
            if owner is not None:
                assert held_scopes(owner.scopes) <= held_scopes(scopes)
                assert owner.tenant_id == tenant_id or "operator" in scopes

    async def owners(self, texts: Iterable[str]) -> list[KeyOwner | None]:
        """Return whose keys these are."""
        return await asyncio.gather(*(self.accounts.owner_of(hash_key(text), now=NOW) for text in texts))

    def somebody(self, data: st.DataObject) -> tuple[str, Authority | None]:
        """Return a party and what one of its keys stands for, if it opens anything."""
        party = data.draw(st.sampled_from(sorted(self.known)))
        text = data.draw(st.sampled_from(sorted(self.known[party])))
        owner = self.run(self.accounts.owner_of(hash_key(text), now=NOW))
        return party, None if owner is None else Authority.of(owner)

    def fresh(self) -> str:
        """Return a text that no key has."""
        self.made += 1
        return f"key-{self.made}"

    def attempt(self, change: Coroutine[Any, Any, object]) -> bool:
        """Return whether a change was allowed."""
        try:
            self.run(change)
        except (Forbidden, NotFound, Unauthorized):
            return False
        return True


@asynccontextmanager
async def two_tenants(dsn: str) -> AsyncIterator[asyncpg.Pool]:
    async with empty_schema(dsn, "registry") as pool:
        for tenant_id in (TENANT, OTHER):
            tenant = TenantRecord(tenant_id=tenant_id, name=tenant_id, created_at=NOW)
            await PostgresAccounts(pool).add_tenant(tenant)
        yield pool


def test_no_sequence_of_calls_gives_a_scope_that_its_maker_lacked(shared_database: str) -> None:
    with asyncio.Runner() as runner:
        opened = two_tenants(shared_database)
        pool = runner.run(opened.__aenter__())
        machine = partial(Keys, runner, pool)
        try:
            run_state_machine_as_test(machine, settings=settings(max_examples=20, stateful_step_count=30))
        finally:
            runner.run(opened.__aexit__(None, None, None))
