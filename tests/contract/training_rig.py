"""The trainer's store of operations for its contract tests, and rows to fill it with."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
from contract.schemas import empty_schema

from mint_common.events import LoraSpec
from mint_common.ids import BaseName, PolicyId, TenantId
from mint_common.training import Open
from services.trainer.adapters.checkpoint_rows_postgres import PostgresCheckpointRows
from services.trainer.adapters.operations_postgres import PostgresOperations
from services.trainer.core.operations import FinishedOperation, NewOperation, Packed
from services.trainer.core.pool import Holder
from tests.testing.factories import make_claim

A, B = PolicyId("policy_a"), PolicyId("policy_b")
TENANT, OTHER = TenantId("ten_a"), TenantId("ten_b")
BASE = BaseName("tiny")
LORA = LoraSpec(rank=8, alpha=16.0, targets=("q_proj",), seed=0)
NOW = 1_700_000_000.0
EARLIER, HOLDER, LATER = (Holder(pool=pool, member=pool) for pool in (2, 3, 4))
CLAIM = make_claim("training/policy_a/one")


@dataclass(slots=True, kw_only=True)
class Store:
    """The store, the rows beside it, and the way to their tables."""

    operations: PostgresOperations
    rows: PostgresCheckpointRows
    pool: asyncpg.Pool

    async def fence(self, holder: Holder) -> None:
        """Give a trainer's pool the lease."""
        await self.pool.execute(
            "INSERT INTO leases (base, token) VALUES ($1, $2) ON CONFLICT (base) DO UPDATE SET token = $2",
            BASE,
            holder.pool,
        )


@asynccontextmanager
async def open_store(dsn: str) -> AsyncIterator[Store]:
    """Open an empty store whose pool is that of `HOLDER`."""
    async with empty_schema(dsn, "trainer") as pool:
        made = Store(
            operations=PostgresOperations(pool, base=BASE), rows=PostgresCheckpointRows(pool), pool=pool
        )
        await made.fence(HOLDER)
        yield made


def new(
    seq: int, *, policy_id: PolicyId = A, tenant_id: TenantId = TENANT, payload: str = ""
) -> NewOperation:
    """Return an operation; number 0 opens."""
    data = (payload or f"operation {seq}").encode()
    return NewOperation(
        policy_id=policy_id,
        seq=seq,
        tenant_id=tenant_id,
        kind="step",
        digest=data,
        payload=Packed(data=data),
        submitted_at=NOW,
        opens=Open(base=BASE, lora=LORA) if seq == 0 else None,
    )


def done(seq: int, position: int = 0, *, policy_id: PolicyId = A, step: int = 0) -> FinishedOperation:
    """Return the end of an operation."""
    return FinishedOperation(
        policy_id=policy_id,
        seq=seq,
        position=position or seq + 1,
        result=Packed(data=f"result {seq}".encode()),
        is_refused=False,
        step=step,
        finished_at=NOW + seq,
    )


async def filled(store: Store, count: int) -> None:
    """Open a session and store some operations."""
    assert await store.operations.add(HOLDER, [new(seq) for seq in range(count)]) == [True] * count
