"""Revisions whose output was not finite: reported once, and refused until they are restored."""

from mint_common.errors import NonFiniteOutput
from mint_common.ids import Digest, TenantId
from services.loader.handlers.residency_log import ResidencyLog

MOST = 4096


class Quarantined:
    """The refused revisions of an engine; changed between awaits only.

    Beyond ``most``, the oldest is dropped first, and would be detected again.
    """

    def __init__(self, log: ResidencyLog, *, most: int = MOST) -> None:
        self._log = log
        self._most = most
        self._digests: dict[Digest, None] = {}

    def check(self, digest: Digest) -> None:
        """Refuse a revision whose output was not finite. Raises NonFiniteOutput."""
        if digest in self._digests:
            raise NonFiniteOutput(digest=digest)

    def note(self, digest: Digest, *, tenant_id: TenantId, cause: str) -> None:
        """Refuse a revision from now on, and report it once for any number of its requests."""
        if digest in self._digests:
            return
        if len(self._digests) == self._most:
            del self._digests[next(iter(self._digests))]
        self._digests[digest] = None
        self._log.non_finite(digest, tenant_id=tenant_id, cause=cause)

    def lift(self, digest: Digest) -> None:
        """Let a revision run again; if its output is not finite again, that is news."""
        self._digests.pop(digest, None)
