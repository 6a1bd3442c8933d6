"""Which bytes the catalog vouches for, and which folders of the blob store are whose."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mint_common.adapters_format import MANIFEST_FILE
from mint_common.claims import Claim, RevisionRef
from mint_common.events import RevisionExported, RevisionHealed, RevisionLost, RevisionQuarantined
from mint_common.events.revision import Fault, QuarantineReason
from mint_common.ids import BaseName, Digest, PolicyId, TenantId

ROOTS = tuple(f"revisions/pol_{letter}" for letter in "234567abcdefghijklmnopqrstuvwxyz")
"""Prefixes that part the folders of all policies: one of them at a time is listed. What lies elsewhere is
nobody's garbage."""

_FOLDER = re.compile(r"(revisions/(pol_[a-z2-7]{26})/[0-9a-f]{2}/([0-9a-f]{64})-[A-Za-z0-9._-]+)/[^/]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A revision and where its bytes are said to be."""

    tenant_id: TenantId
    base: BaseName
    policy_id: PolicyId
    number: int
    digest: Digest
    manifest: Claim
    fault: Fault | None

    @property
    def place(self) -> str:
        """Return where it is in a walk over all revisions."""
        return f"{self.policy_id}/{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder of an adapter in the blob store, and what its name says."""

    prefix: str
    policy_id: PolicyId
    digest: Digest


def folders_of(keys: Iterable[str]) -> list[Folder]:
    """Return the folders that keys lie in, in order of the keys, each once."""
    found: dict[str, Folder] = {}
    for key in keys:
        if match := _FOLDER.fullmatch(key):
            prefix, policy_id, digits = match.groups()
            found[prefix] = Folder(
                prefix=prefix, policy_id=PolicyId(policy_id), digest=Digest(f"sha256:{digits}")
            )
    return list(found.values())


def folder_of(manifest: Claim) -> str:
    """Return the prefix of the folder that a manifest lies in."""
    return manifest.uri.removesuffix(f"/{MANIFEST_FILE}")


def lost(held: Held, fault: Fault, problem: str, *, sequence: int) -> RevisionLost:
    """Return the event that tells that a revision cannot be served any more."""
    return RevisionLost(
        tenant_id=held.tenant_id,
        base=held.base,
        policy_id=held.policy_id,
        digest=held.digest,
        number=held.number,
        fault=fault,
        problem=problem,
        sequence=sequence,
    )


def quarantined(held: Held, reason: QuarantineReason, *, sequence: int) -> RevisionQuarantined:
    """Return the event that tells that a revision was taken out of use for what it did."""
    return RevisionQuarantined(
        tenant_id=held.tenant_id,
        base=held.base,
        policy_id=held.policy_id,
        digest=held.digest,
        number=held.number,
        reason=reason,
        sequence=sequence,
    )


def healed(owner: Held | RevisionExported, revision: RevisionRef, *, sequence: int) -> RevisionHealed:
    """Return the event that tells that the bytes of a revision are there again."""
    return RevisionHealed(
        tenant_id=owner.tenant_id,
        base=owner.base,
        policy_id=owner.policy_id,
        digest=revision.digest,
        revision=revision,
        sequence=sequence,
    )
