"""A revision whose output is not finite is out of use where its bytes are, and its owners hear of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from contract.catalog_rig import NOW, OTHER, TENANT, Store, add_policy, export_of, publish

from mint_common.catalog import Resolution
from mint_common.errors import AlreadyHandled, RevisionQuarantinedError
from mint_common.events import AdapterNonFinite, Event, RevisionQuarantined
from mint_common.events.codec import decode, encode
from mint_common.ids import BaseName, EngineId, TenantId
from services.gateway.core.resolutions import ResolutionCache
from services.loader.handlers.quarantining import Quarantined
from services.loader.handlers.residency_log import EngineIdentity, ResidencyLog
from services.registry.core.names import parse_model
from services.registry.handlers.quarantine import QuarantineHandler
from tests.testing.clock import ManualClock

STRANGER = TenantId("ten_c")


@dataclass
class Wire:
    """What a loader announces, as the bus carries it."""

    events: list[Event] = field(default_factory=list)

    def announce(self, event: Event, *, cause: str) -> None:
        """Encode and decode an event."""
        self.events.append(decode(encode(event, cause=cause, now=NOW))[1])


def engine(epoch: str = "epoch_1") -> tuple[Wire, Quarantined]:
    wire = Wire()
    identity = EngineIdentity(engine_id=EngineId("e"), epoch=epoch, base=BaseName("pebble"))
    return wire, Quarantined(ResidencyLog(identity, wire, ManualClock()))


async def told_of(store: Store, kind: type[Event]) -> Sequence[Event]:
    return [event for event in await store.events() if isinstance(event, kind)]


async def handle(store: Store, wire: Wire) -> None:
    for event in wire.events:
        assert isinstance(event, AdapterNonFinite)
        await QuarantineHandler(integrity=store.integrity).on_adapter_non_finite(event)


async def test_only_those_who_have_the_bytes_lose_them_and_each_owner_is_told(store: Store) -> None:
    mine, copied, theirs = [
        await add_policy(store, name, tenant)
        for name, tenant in (("mine", TENANT), ("copied", OTHER), ("theirs", OTHER))
    ]
    _, bad = await publish(store, mine, 2)
    await store.catalog.settle_export(replace(export_of(copied, 9), digest=bad.digest), None, now=NOW)
    (good,) = await publish(store, theirs, 1)
    wire, quarantined = engine()
    for _ in range(5):
        quarantined.note(bad.digest, tenant_id=TENANT, cause="req")
    assert len(wire.events) == 1
    await handle(store, wire)

    for tenant, name in ((TENANT, "mine@2"), (OTHER, "copied@1"), (OTHER, "copied")):
        with pytest.raises(RevisionQuarantinedError) as refused:
            await store.catalog.resolve(tenant, parse_model(name))
        assert (refused.value.code, refused.value.http_status) == ("revision_quarantined", 404)
    assert (await store.catalog.resolve(OTHER, parse_model("theirs"))).revision == good
    told = await told_of(store, RevisionQuarantined)
    assert {(event.tenant_id, event.reason) for event in told if isinstance(event, RevisionQuarantined)} == {
        (TENANT, "non_finite_output"),
        (OTHER, "non_finite_output"),
    }
    assert all(event.subject.endswith(f".{event.tenant_id}.pebble") for event in told)


async def test_what_an_owner_restores_is_not_taken_again_by_old_news(store: Store) -> None:
    policy = await add_policy(store)
    (bad,) = await publish(store, policy, 1)
    wire, quarantined = engine()
    quarantined.note(bad.digest, tenant_id=TENANT, cause="req")
    await handle(store, wire)
    await store.catalog.set_state(policy, 1, "published")
    with pytest.raises(AlreadyHandled):
        await handle(store, wire)
    assert (await store.catalog.resolve(TENANT, parse_model("p"))).revision == bad
    again, quarantined = engine("epoch_2")
    quarantined.note(bad.digest, tenant_id=TENANT, cause="req")
    await handle(store, again)
    with pytest.raises(RevisionQuarantinedError):
        await store.catalog.resolve(TENANT, parse_model("p"))


async def test_a_digest_that_is_nobodys_changes_nothing(store: Store) -> None:
    policy = await add_policy(store)
    (good,) = await publish(store, policy, 1)
    wire, quarantined = engine()
    quarantined.note(export_of(policy, 77).digest, tenant_id=STRANGER, cause="req")
    before = await store.events()
    await handle(store, wire)
    assert await store.events() == before
    assert (await store.catalog.resolve(TENANT, parse_model("p"))).revision == good


async def test_a_gateway_forgets_its_names_at_the_event(store: Store) -> None:
    mine, other = await add_policy(store, "mine"), await add_policy(store, "other")
    (bad,), (good,) = await publish(store, mine, 1), await publish(store, other, 1)
    cache = ResolutionCache(capacity=9, lease_seconds=60, switch_seconds=20, is_ready=lambda _: True)
    meant: dict[str, Resolution] = {}
    for name in ("mine", "mine@1", "other"):
        meant[name] = await store.catalog.resolve(TENANT, parse_model(name))
        cache.put((TENANT, name), meant[name], ticket=cache.ask(), asked_at=0.0, now=0.0)
    await store.integrity.quarantine(bad.digest, "non_finite_output", cause="evt")
    (event,) = await told_of(store, RevisionQuarantined)
    assert isinstance(event, RevisionQuarantined)
    cache.withdraw(event.policy_id, event.digest)
    assert [cache.get((TENANT, name), now=1.0) for name in meant] == [None, None, meant["other"]]
    assert meant["other"].revision == good
