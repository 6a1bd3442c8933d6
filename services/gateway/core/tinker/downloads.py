"""Temporary addresses from which anyone can download a checkpoint's file.

Clients fetch them without their key, so an address contains its target, its expiry, and a signature over
both.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass

import msgspec

from mint_common.claims import Claim
from mint_common.errors import NotFound
from mint_common.ids import TenantId

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
        body = msgspec.json.encode(ticket)
        return f"{_encode(body)}.{_encode(self._signature(body))}"

    def read(self, text: str, *, now: float) -> Ticket:
        """Return a ticket that was signed here and has not expired. Raises NotFound."""
        missing = NotFound(kind="download", name=text[:50])
        body, _, signature = text.partition(".")
        try:
            raw, proof = _decode(body), _decode(signature)
        except ValueError as error:
            raise missing from error
        if not hmac.compare_digest(proof, self._signature(raw)):
            raise missing
        try:
            ticket = msgspec.json.decode(raw, type=Ticket)
        except msgspec.DecodeError as error:  # of a gateway of another version
            raise missing from error
        if ticket.expires_at < now:
            raise missing
        return ticket

    def _signature(self, body: bytes) -> bytes:
        return hmac.digest(self.secret, b"mint download\0" + body, hashlib.sha256)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    if not text.isascii():
        raise ValueError("no base64")
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
