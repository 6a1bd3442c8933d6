"""Signatures of webhooks by Standard Webhooks 1.0.0 (standardwebhooks.com).

HMAC-SHA256 signs ``<webhook-id>.<webhook-timestamp>.<body>``, so a changed body or time is detected. The id
identifies repetitions.
"""

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

SECRET_PREFIX = "whsec_"  # noqa: S105  (what secrets begin with)
SECRET_BYTES = 32


def write_secret(random: bytes) -> str:
    """Return random bytes as a secret."""
    return SECRET_PREFIX + base64.b64encode(random).decode()


def signed_headers(
    secrets: Sequence[str], *, message_id: str, timestamp: int, body: bytes
) -> Mapping[str, str]:
    """Return the headers of a message, signed with each secret; a receiver accepts any that it knows."""
    sent_at, text = datetime.fromtimestamp(timestamp, UTC), body.decode()
    signatures = [Webhook(secret).sign(message_id, sent_at, text) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }
