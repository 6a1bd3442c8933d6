"""Sessions of browsers: an API key sealed in a cookie, and the token that each form of a session carries.

A sealed key is encrypted and authenticated (Fernet: AES-128-CBC with HMAC-SHA256): only gateways of this
stack read it, each without a look-up. A session ends with its key, and after `SESSION_SECONDS`. Requests that
change something need the form token too: another site's page can make a browser send the cookie, but cannot
read the token.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass

from cryptography.fernet import Fernet, InvalidToken

from mint_common.errors import Forbidden, Unauthorized

COOKIE = "mint_session"
FORM_HEADER, FORM_FIELD = "x-mint-form", "form_token"
"""Header and field that carry the form token: scripts send the header, forms the field."""
SESSION_SECONDS = 12 * 3600
"""Maximum age of a session."""
MAX_COOKIE = 4096
"""Maximum length of a sealed key, as browsers limit cookies."""
_SAFE = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowserSessions:
    """Seals and reads sessions with a secret shared by all gateways."""

    secret: bytes

    def seal(self, key: str, *, now: float) -> str:
        """Return the cookie of a session that begins now, in seconds since the epoch."""
        return self._fernet().encrypt_at_time(key.encode(), int(now)).decode()

    def key_of(self, cookie: str, *, now: float) -> str:
        """Return the API key of a session. Raises Unauthorized for one that is over or not of this stack."""
        if len(cookie) <= MAX_COOKIE and cookie.isascii():
            try:
                sealed = self._fernet().decrypt_at_time(cookie.encode(), SESSION_SECONDS, int(now))
                return sealed.decode()
            except InvalidToken:
                pass
        raise Unauthorized(problem="Your session is over: sign in again at /console.")

    def form_token(self, cookie: str) -> str:
        """Return the token that the forms of a session carry."""
        return hmac.digest(self.secret, b"mint form\0" + cookie.encode(), hashlib.sha256).hex()

    def check_form(self, method: str, cookie: str, token: str) -> None:
        """Refuse a change without the token of its session. Raises Forbidden."""
        if method in _SAFE or hmac.compare_digest(token.encode(), self.form_token(cookie).encode()):
            return
        raise Forbidden(problem=f"This change needs {FORM_HEADER}, the form token of your session: reload.")

    def _fernet(self) -> Fernet:
        key = hmac.digest(self.secret, b"mint browser session", hashlib.sha256)
        return Fernet(base64.urlsafe_b64encode(key))
