"""Temporary addresses from which anyone can download a checkpoint's file.

Clients fetch them without their key, so an address contains its target, its expiry, and a signature over
both.
"""

from dataclasses import dataclass

import msgspec

from mint_common.claims import Claim
from mint_common.errors import NotFound
from mint_common.ids import TenantId
from services.gateway.core.signed_text import Signature

VALID_SECONDS = 3600.0


class Ticket(msgspec.Struct, frozen=True):
    """A stored adapter, by its manifest, and the expiry of its download; ``tenant_id`` asked for it."""

    manifest: Claim
    tenant_id: TenantId
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketSigner:
    """Signs tickets with a secret shared by all gateways."""

    secret: bytes

    def sign(self, ticket: Ticket) -> str:
        """Return a ticket as text for a path."""
        return self._signature.sign(msgspec.json.encode(ticket))

    def read(self, text: str, *, now: float) -> Ticket:
        """Return a ticket that was signed here and has not expired. Raises NotFound."""
        missing = NotFound(kind="download", name=text[:50])
        content = self._signature.read(text)
        if content is None:
            raise missing
        try:
            ticket = msgspec.json.decode(content, type=Ticket)
        except msgspec.DecodeError as error:  # of a gateway of another version
            raise missing from error
        if ticket.expires_at < now:
            raise missing
        return ticket

    @property
    def _signature(self) -> Signature:
        return Signature(secret=self.secret, purpose=b"mint download")
