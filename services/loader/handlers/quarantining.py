"""Revisions whose output was not finite: told once, and refused until somebody puts them into use again."""

from mint_common.ids import Digest, TenantId
from services.loader.core.quarantine import Quarantine
from services.loader.handlers.residency_log import ResidencyLog


class Quarantined:
    """What of an engine's revisions is refused; changed between awaits only."""

    def __init__(self, log: ResidencyLog) -> None:
        self._quarantine = Quarantine()
        self._log = log

    def check(self, digest: Digest) -> None:
        """Refuse a revision whose output was not finite. Raises NonFiniteOutput."""
        self._quarantine.check(digest)

    def note(self, digest: Digest, *, tenant_id: TenantId, cause: str) -> None:
        """Refuse a revision from now on, and say so; once, however many of its requests end like this."""
        entered = self._quarantine.enter(digest)
        if entered is not self._quarantine:
            self._quarantine = entered
            self._log.non_finite(digest, tenant_id=tenant_id, cause=cause)

    def lift(self, digest: Digest) -> None:
        """Let a revision run again; if its output is not finite again, that is news."""
        self._quarantine = self._quarantine.leave(digest)
