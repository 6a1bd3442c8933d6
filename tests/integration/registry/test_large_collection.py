"""A collection at the scale of a catalog: what is in use comes in parts, and is asked, not copied."""

import time
from collections.abc import AsyncIterator

import pytest

from mint_common.ids import Digest, pack_digests, sha256_digest
from tests.integration.registry.rig import RunningRegistry

pytestmark = pytest.mark.integration

MANY = 200_000


def digests(count: int) -> list[Digest]:
    return [sha256_digest(str(number).encode()) for number in range(count)]


async def parts(used: list[Digest]) -> AsyncIterator[bytes]:
    for part in pack_digests(used):
        yield part


async def test_a_collection_takes_as_many_digests_as_are_in_use(registry: RunningRegistry) -> None:
    policy_id = await registry.make_policy()
    published = await registry.publish(policy_id, 3)
    for number in (1, 2):
        await registry.ask("POST", f"/tenants/default/policies/p/revisions/{number}/retire")
    await registry.pool.execute("UPDATE revisions SET retired_at = to_timestamp(0) WHERE state = 'retired'")
    await registry.pool.execute(
        "INSERT INTO policies (policy_id, tenant_id, name, base, lora, created_at, retention) "
        "SELECT 'pol_' || i, tenant_id, 'q' || i, base, lora, now(), '{\"keep_last\": 1}' "
        "FROM policies, generate_series(1, 1000) i WHERE name = 'p'"
    )
    await registry.pool.execute(
        "INSERT INTO revisions (policy_id, number, digest, manifest_uri, manifest_sha256, "
        "manifest_size_bytes, step, metrics, export_id, created_at) "
        "SELECT policy_id, 1, 'sha256:' || policy_id, 'u', 's', 1, 1, "
        "'{}', 'e', now() FROM policies WHERE name LIKE 'q%'"
    )
    used = [*digests(MANY), published[0].revision.digest]
    began = time.monotonic()
    answer = await registry.http.post(
        "/internal/collection", params={"dry_run": "true", "limit": 100}, content=parts(used)
    )
    seconds = time.monotonic() - began
    assert answer.status_code == 200, answer.text
    assert [item["what"] for item in answer.json()["items"]] == ["p@2"]
    assert seconds < 20, seconds
    bad = await registry.http.post(
        "/internal/collection", params={"dry_run": "true", "limit": 100}, content=b"33 bytes" * 4 + b"."
    )
    assert (bad.status_code, bad.json()["error"]["field"]) == (422, "used")
