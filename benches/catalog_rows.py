"""A catalog of any size: tenants, policies, adapters with real bytes, and rows alone."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import islice

import asyncpg

from benches.adapters import Recipe, copy_revisions, make_adapters
from mint_common.adapters_format import (
    CONFIG_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    AdapterFiles,
    BaseFacts,
    check_adapter,
    store_adapter,
    write_manifest,
)
from mint_common.adapters_format.config import check_config
from mint_common.blobs.port import Blobs
from mint_common.catalog import PolicyRecord
from mint_common.claims import Claim, RevisionRef
from mint_common.events import LoraSpec
from mint_common.ids import PolicyId, TenantId, derive_id, sha256_digest
from services.registry.core.exports import UNSTORED, check_export, export_of

TARGETS = ("q_proj", "v_proj")
LORA = LoraSpec(rank=1, alpha=1.0, targets=TARGETS, seed=0)
NOW = 1_700_000_000.0
BATCH = 500
STORED_AT_ONCE = 16
MAX_UPDATE_RATIO = 100.0
COPY_BATCH = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much there is: a tenth of the policies has a real adapter, a tenth a second revision."""

    policies: int

    @property
    def tenants(self) -> int:
        """The first of them holds half of all policies."""
        return max(2, self.policies // 1000)

    @property
    def real(self) -> int:
        """Policies below this index have an adapter with bytes."""
        return self.policies // 10

    @property
    def twice(self) -> int:
        """Policies below this index have a second revision."""
        return self.policies // 10

    @property
    def early(self) -> int:
        """How many policies there are when the catalog is measured as a small one."""
        return max(1000, self.policies // 100)

    def tenant(self, index: int) -> TenantId:
        """Return whose a policy is."""
        return tenant_id(0 if index % 2 == 0 else 1 + index // 2 % (self.tenants - 1))


def tenant_id(index: int) -> TenantId:
    """Return the id of a tenant."""
    return TenantId(f"ten_{index}")


def name_of(index: int) -> str:
    """Return the name of a policy."""
    return f"policy-{index:07d}"


def policy_id(index: int) -> PolicyId:
    """Return the id of a policy."""
    return PolicyId(derive_id("pol", index))


def policy_of(index: int, size: Size, facts: BaseFacts) -> PolicyRecord:
    """Return a policy."""
    return PolicyRecord(
        policy_id=policy_id(index),
        tenant_id=size.tenant(index),
        name=name_of(index),
        base=facts.name,
        lora=LORA,
        created_at=NOW,
        latest=None,
    )


async def add_policies(connection: asyncpg.Connection, size: Size, facts: BaseFacts, indices: range) -> None:
    """Add policies without revisions."""
    lora, created_at = json.dumps(asdict(LORA)), datetime.fromtimestamp(NOW, UTC)
    for part in _parts(indices, COPY_BATCH):
        await connection.copy_records_to_table(
            "policies",
            schema_name="registry",
            columns=("policy_id", "tenant_id", "name", "base", "lora", "created_at"),
            records=[
                (policy_id(index), size.tenant(index), name_of(index), facts.name, lora, created_at)
                for index in part
            ],
        )


async def add_adapters(
    connection: asyncpg.Connection, blobs: Blobs, size: Size, facts: BaseFacts, indices: range
) -> None:
    """Add a revision to each policy whose adapter is checked and stored."""
    adapters = _adapters(facts, indices)
    for part in _parts(indices, BATCH):
        batch = list(islice(adapters, len(part)))
        gate = asyncio.Semaphore(STORED_AT_ONCE)
        policies = [policy_of(index, size, facts) for index in part]
        pairs = zip(policies, batch, strict=True)
        stored = [_store(blobs, facts, policy, files, gate) for policy, files in pairs]
        await copy_revisions(connection, await asyncio.gather(*stored))


async def _store(
    blobs: Blobs, facts: BaseFacts, policy: PolicyRecord, files: AdapterFiles, gate: asyncio.Semaphore
) -> tuple[PolicyId, RevisionRef]:
    """Check an adapter like an export and store it. Raises AdapterInvalid."""
    async with gate:
        manifest = files.manifest
        check_export(export_of(policy, manifest, export_id="", claim=UNSTORED), policy, manifest)
        check_config(facts, manifest, files.files[CONFIG_FILE])
        check_adapter(facts, manifest, files.files[WEIGHTS_FILE], max_ratio=MAX_UPDATE_RATIO)
        claim = await store_adapter(blobs, files, export_id="bench")
    return policy.policy_id, RevisionRef(digest=files.digest, number=1, manifest=claim)


def _adapters(facts: BaseFacts, indices: range) -> Iterator[AdapterFiles]:
    recipe = Recipe(rank=1, targets=TARGETS)
    made = make_adapters(facts, PolicyId("any"), len(indices), recipe, seed=indices.start)
    for index, files in zip(indices, made, strict=True):
        manifest = replace(files.manifest, policy_id=policy_id(index))
        contents = {**files.files, MANIFEST_FILE: write_manifest(manifest)}
        yield replace(files, manifest=manifest, files=contents)


async def add_rows(connection: asyncpg.Connection, indices: range, *, number: int) -> None:
    """Add a revision to each policy as a row alone: its manifest is nowhere."""
    for part in _parts(indices, COPY_BATCH):
        await copy_revisions(connection, [(policy_id(index), _absent(index, number)) for index in part])


def _absent(index: int, number: int) -> RevisionRef:
    digest = sha256_digest(f"{index}.{number}".encode())
    manifest = Claim(uri=f"absent/{digest}", sha256=digest[7:], size_bytes=600)
    return RevisionRef(digest=digest, number=number, manifest=manifest)


def _parts(indices: range, size: int) -> Iterator[range]:
    for start in range(indices.start, indices.stop, size):
        yield range(start, min(start + size, indices.stop))
