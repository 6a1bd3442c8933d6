"""Stored revisions and folders of the blob store, and the events about lost and healed bytes."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mint_common.adapters_format import MANIFEST_FILE
from mint_common.claims import Claim, RevisionRef
from mint_common.events import RevisionExported, RevisionHealed, RevisionLost, RevisionQuarantined
from mint_common.events.revision import Fault, QuarantineReason
from mint_common.ids import BaseName, Digest, PolicyId, TenantId

ROOTS = tuple(f"revisions/pol_{letter}" for letter in "234567abcdefghijklmnopqrstuvwxyz")
"""Prefixes that partition the folders of all policies; a listing takes one of them at a time. Keys outside of
them are never garbage."""

_FOLDER = re.compile(r"(revisions/(pol_[a-z2-7]{26})/[0-9a-f]{2}/([0-9a-f]{64})-[A-Za-z0-9._-]+)/[^/]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRevision:
    """A revision and the claim of its bytes."""

    tenant_id: TenantId
    base: BaseName
    policy_id: PolicyId
    number: int
    digest: Digest
    manifest: Claim
    fault: Fault | None

    @property
    def position(self) -> str:
        """Return its position in a walk over all revisions."""
        return f"{self.policy_id}/{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder of an adapter in the blob store, and the ids in its name."""

    prefix: str
    policy_id: PolicyId
    digest: Digest


def is_majority(present: Sequence[bool]) -> bool:
    """Return whether at least half of a sample is there, which no other store than our own would have."""
    return 2 * sum(present) >= len(present)


def folders_of(keys: Iterable[str]) -> list[Folder]:
    """Return the distinct folders of some keys, in the order of the keys."""
    found: dict[str, Folder] = {}
    for key in keys:
        if match := _FOLDER.fullmatch(key):
            prefix, policy_id, digits = match.groups()
            found[prefix] = Folder(
                prefix=prefix, policy_id=PolicyId(policy_id), digest=Digest(f"sha256:{digits}")
            )
    return list(found.values())


def folder_of(manifest: Claim) -> str:
    """Return the prefix of a manifest's folder."""
    return manifest.uri.removesuffix(f"/{MANIFEST_FILE}")


def lost(revision: StoredRevision, fault: Fault, problem: str, *, sequence: int) -> RevisionLost:
    """Return the event of a revision whose bytes are lost."""
    return RevisionLost(
        tenant_id=revision.tenant_id,
        base=revision.base,
        policy_id=revision.policy_id,
        digest=revision.digest,
        number=revision.number,
        fault=fault,
        problem=problem,
        sequence=sequence,
    )


def quarantined(revision: StoredRevision, reason: QuarantineReason, *, sequence: int) -> RevisionQuarantined:
    """Return the event of a revision that was quarantined for its output."""
    return RevisionQuarantined(
        tenant_id=revision.tenant_id,
        base=revision.base,
        policy_id=revision.policy_id,
        digest=revision.digest,
        number=revision.number,
        reason=reason,
        sequence=sequence,
    )


def healed(
    owner: StoredRevision | RevisionExported, revision: RevisionRef, *, sequence: int
) -> RevisionHealed:
    """Return the event of a revision whose bytes were lost and are stored again."""
    return RevisionHealed(
        tenant_id=owner.tenant_id,
        base=owner.base,
        policy_id=owner.policy_id,
        digest=revision.digest,
        revision=revision,
        sequence=sequence,
    )
