"""The contract of finding revisions by their digests."""

from dataclasses import replace

import pytest
from contract.catalog_rig import NOW, OTHER, TENANT, Store, add_policy, export_of, publish

from mint_common.ids import TenantId, sha256_digest

pytestmark = pytest.mark.integration


async def test_owners_of_digests_are_found_within_the_tenant_only(store: Store) -> None:
    mine, theirs = await add_policy(store, "mine"), await add_policy(store, "theirs", OTHER)
    first, second = await publish(store, mine, 2)
    (foreign,) = await publish(store, theirs, 1)
    unpublished = sha256_digest(b"unpublished")
    asked = [second.digest, foreign.digest, unpublished]
    (owned,) = await store.owners.of_digests(TENANT, asked)
    assert (owned.policy, owned.base, owned.revision) == ("mine", mine.base, second)
    assert [each.policy for each in await store.owners.of_digests(OTHER, asked)] == ["theirs"]
    both = await store.owners.of_digests(TENANT, [second.digest, first.digest])
    assert [each.revision for each in both] == [first, second]


async def test_owners_are_found_by_a_prefix_of_a_digest(store: Store) -> None:
    mine, theirs = await add_policy(store, "mine"), await add_policy(store, "theirs", OTHER)
    twin = await add_policy(store, "twin")
    first, second = await publish(store, mine, 2)
    (foreign,) = await publish(store, theirs, 1)
    equal = replace(export_of(twin, 1), digest=second.digest)
    await store.catalog.settle_export(equal, None, now=NOW)

    async def found(tenant: TenantId, digest: str, count: int, *, limit: int = 9) -> list[str]:
        prefix = digest.removeprefix("sha256:")[:count]
        owned = await store.owners.of_prefix(tenant, prefix, limit=limit)
        return [f"{each.policy}@{each.revision.number}" for each in owned]

    for count in (16, 40, 64):
        assert await found(TENANT, first.digest, count) == ["mine@1"]
        assert await found(TENANT, second.digest, count) == ["mine@2", "twin@1"]
        assert await found(OTHER, first.digest, count) == []
        assert await found(TENANT, foreign.digest, count) == []
    assert await found(TENANT, second.digest, 16, limit=1) == ["mine@2"]
    for wrong in (0, 15, 16, 63):
        other = first.digest[: 7 + wrong] + ("0" if first.digest[7 + wrong] != "0" else "1")
        assert await found(TENANT, other + first.digest[8 + wrong :], 64) == []
