"""Decodes database rows of operations."""

from collections.abc import Sequence

import asyncpg
import msgspec

from mint_common.claims import Claim
from services.trainer.core.operations import Packed, StoredOperation


def claims_of(rows: Sequence[asyncpg.Record]) -> list[Claim]:
    """Return the claims of rows that have one."""
    return [msgspec.msgpack.decode(row["claim"], type=Claim) for row in rows if row["claim"] is not None]


def stored_operation(row: asyncpg.Record) -> StoredOperation:
    """Return an operation of a row; columns that a query leaves out have their defaults."""
    payload = row["payload"]
    packed = None if payload is None else Packed(data=payload, is_claim=row["payload_is_claim"])
    return StoredOperation(
        policy_id=row["policy_id"],
        seq=row["seq"],
        tenant_id=row["tenant_id"],
        payload=packed,
        size_bytes=packed.size_bytes if packed else row["size_bytes"],
        position=row.get("position"),
        is_refused=bool(row.get("is_refused")),
        attempts=row.get("attempts", 0),
        reads=row.get("reads", 0),
    )
