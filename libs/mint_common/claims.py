"""Claims: references to large data, by address and content hash."""

from dataclasses import dataclass

from mint_common.ids import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A blob's address and content hash.

    ``uri`` is the key in the blob store that all services share; ``sha256`` is the hex
    digest of the bytes and ``size_bytes`` their number.
    """

    uri: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRef:
    """One revision of a policy: its digest, its number within the policy (1, 2, ...) and its manifest."""

    digest: Digest
    number: int
    manifest: Claim
