"""Text that a gateway signs and every gateway can check without a look-up: HMAC-SHA256 over its content."""

import base64
import hashlib
import hmac
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Signs content with a secret shared by all gateways; what has another ``purpose`` is not accepted."""

    secret: bytes
    purpose: bytes

    def sign(self, content: bytes) -> str:
        """Return the content and its signature as text for a header or a path."""
        return f"{_encode(content)}.{_encode(self._of(content))}"

    def read(self, text: str) -> bytes | None:
        """Return the content of a signed text, None if it was not signed so."""
        content, _, signature = text.partition(".")
        try:
            raw, proof = _decode(content), _decode(signature)
        except ValueError:
            return None
        return raw if hmac.compare_digest(proof, self._of(raw)) else None

    def _of(self, content: bytes) -> bytes:
        return hmac.digest(self.secret, self.purpose + b"\0" + content, hashlib.sha256)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    if not text.isascii():
        raise ValueError("no base64")
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
