"""A catalog of any size: tenants, policies, adapters with real bytes, and rows alone."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice

import asyncpg

from benches.adapters import Recipe, make_adapters
from mint_common.adapters_format import MANIFEST_FILE, BaseFacts, write_manifest
from mint_common.catalog import PolicyRecord
from mint_common.events import LoraSpec
from mint_common.ids import PolicyId, TenantId, derive_id, sha256_digest
from services.registry.adapters.catalog_postgres import PostgresCatalog
from services.registry.core.exports import Refusal
from services.registry.handlers.bulk import BulkIngest, NewAdapter

TARGETS = ("q_proj", "v_proj")
LORA = LoraSpec(rank=1, alpha=1.0, targets=TARGETS, seed=0)
NOW = 1_700_000_000.0
BATCH = 500
POLICY_BATCH = 5_000
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


async def add_policies(catalog: PostgresCatalog, size: Size, facts: BaseFacts, indices: range) -> None:
    """Add policies without revisions."""
    for start in range(indices.start, indices.stop, POLICY_BATCH):
        part = range(start, min(start + POLICY_BATCH, indices.stop))
        await catalog.add_policies([policy_of(index, size, facts) for index in part])


async def ingest(ingester: BulkIngest, size: Size, facts: BaseFacts, indices: range) -> list[float]:
    """Give policies an adapter each through the bulk ingest; return adapters per second of every batch."""
    rates = []
    adapters = _adapters(size, facts, indices)
    while batch := list(islice(adapters, BATCH)):
        started = time.perf_counter()
        found = await ingester.ingest(batch, announce=False)
        rates.append(len(batch) / (time.perf_counter() - started))
        refused = [one for one in found if isinstance(one, Refusal)]
        assert not refused, refused[0].reason
    return rates


def _adapters(size: Size, facts: BaseFacts, indices: range) -> Iterator[NewAdapter]:
    recipe = Recipe(rank=1, targets=TARGETS)
    made = make_adapters(facts, PolicyId("any"), len(indices), recipe, seed=indices.start)
    for index, files in zip(indices, made, strict=True):
        policy = policy_of(index, size, facts)
        manifest = replace(files.manifest, policy_id=policy.policy_id)
        contents = {**files.files, MANIFEST_FILE: write_manifest(manifest)}
        yield NewAdapter(policy=policy, files=replace(files, manifest=manifest, files=contents))


async def add_rows(connection: asyncpg.Connection, indices: range, *, number: int) -> None:
    """Add a revision to each policy as a row alone: its manifest is nowhere."""
    for start in range(indices.start, indices.stop, COPY_BATCH):
        part = range(start, min(start + COPY_BATCH, indices.stop))
        await connection.copy_records_to_table(
            "revisions",
            schema_name="registry",
            columns=(
                "policy_id",
                "number",
                "digest",
                "manifest_uri",
                "manifest_sha256",
                "manifest_size_bytes",
                "step",
                "metrics",
                "export_id",
                "created_at",
            ),
            records=[_row(index, number) for index in part],
        )


def _row(index: int, number: int) -> tuple[object, ...]:
    digest = sha256_digest(f"{index}.{number}".encode())
    uri = f"absent/{digest}"
    moment = datetime.fromtimestamp(NOW, UTC)
    return policy_id(index), number, digest, uri, digest[7:], 600, number, json.dumps({}), "bench", moment
