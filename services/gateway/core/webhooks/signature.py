"""Signatures of webhooks, after Standard Webhooks 1.0.0 (standardwebhooks.com).

What is signed is ``<webhook-id>.<webhook-timestamp>.<body>``, with HMAC-SHA256, so that neither the body nor
its age can be changed on the way; the id tells a receiver what it has seen already.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence

SECRET_PREFIX = "whsec_"  # noqa: S105  (what secrets begin with)
SECRET_BYTES = 32


def write_secret(random: bytes) -> str:
    """Return random bytes as a secret."""
    return SECRET_PREFIX + base64.b64encode(random).decode()


def sign(secret: str, *, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the signature of a message: ``v1,<base64>``."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def signed_headers(
    secrets: Sequence[str], *, message_id: str, timestamp: int, body: bytes
) -> Mapping[str, str]:
    """Return the headers of a message, signed with each secret: a receiver takes whichever it knows."""
    signatures = [sign(secret, message_id=message_id, timestamp=timestamp, body=body) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }
