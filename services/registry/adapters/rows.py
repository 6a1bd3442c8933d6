"""Rows of the registry's tables as records, whose fields are named like the columns."""

from typing import TypeVar

from mint_common.catalog import PolicyRecord
from mint_common.claims import Claim, RevisionRef
from mint_common.errors import NotFound
from mint_common.runtime.postgres import Row, from_row

T = TypeVar("T")

NEWEST = """
    LEFT JOIN LATERAL (
        SELECT number, digest, manifest_uri, manifest_sha256, manifest_size_bytes FROM revisions
        WHERE revisions.policy_id = policy.policy_id AND state = 'published'
        ORDER BY number DESC LIMIT 1
    ) newest ON true
"""
"""Joins ``policy`` with its newest published revision."""

POLICY = f"SELECT policy.*, newest.* FROM policies policy {NEWEST}"  # noqa: S608  # a constant
"""Policies with their newest published revision."""


LOCK_POLICY = "SELECT removed_at IS NULL FROM policies WHERE policy_id = $1 FOR NO KEY UPDATE"
"""Lock that orders a policy's revision numbers and alias moves; false for a removed policy. It is a statement
of its own, because a statement that waits for a lock does not see what was committed meanwhile."""


def found(row: T | None, kind: str, name: str) -> T:
    """Return a row, or a column of one. Raises NotFound when there is none."""
    if row is None:
        raise NotFound(kind=kind, name=name)
    return row


def policy_of(row: Row) -> PolicyRecord:
    """Read a row of `POLICY`."""
    return from_row({**row, "latest": None if row["number"] is None else ref_of(row)}, PolicyRecord)


def ref_of(row: Row) -> RevisionRef:
    """Read the revision in a row that has its number, digest and manifest."""
    return RevisionRef(digest=row["digest"], number=row["number"], manifest=_manifest_of(row))


def read_revision(row: Row, kind: type[T]) -> T:
    """Return a row of revisions as a record that has the claim of the manifest."""
    return from_row({**row, "manifest": _manifest_of(row)}, kind)


def _manifest_of(row: Row) -> Claim:
    return Claim(
        uri=row["manifest_uri"], sha256=row["manifest_sha256"], size_bytes=row["manifest_size_bytes"]
    )
