"""Keys of single episodes, which an agent has in place of a key of its tenant while it runs one.

A key names its tenant and its episode, and a signature over both, so that it is checked without a look-up. It
opens the model calls of that episode and nothing else; the episode's end is its end.
"""

from dataclasses import dataclass

import msgspec

from mint_common.authority import Authority, Caller
from mint_common.errors import Unauthorized
from mint_common.ids import TenantId
from services.gateway.core.signed_text import Signature

PREFIX = "mint-episode-"


class _Named(msgspec.Struct, frozen=True):
    tenant_id: TenantId
    episode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeKeys:
    """Makes and reads keys with a secret shared by all gateways."""

    secret: bytes

    def make(self, tenant_id: TenantId, episode: str) -> str:
        """Return the key of an episode."""
        content = msgspec.json.encode(_Named(tenant_id=tenant_id, episode=episode))
        return PREFIX + self._signature.sign(content)

    def caller_of(self, key: str, *, episode: str) -> Caller:
        """Return the caller whose key this is. Raises Unauthorized unless it is this episode's."""
        content = self._signature.read(key.removeprefix(PREFIX))
        if content is None:
            raise Unauthorized(problem="This key of an episode is not known: claim the episode again.")
        named = msgspec.json.decode(content, type=_Named)
        if named.episode != episode:
            problem = f"This key is of episode {named.episode}: send each episode's own `api_key`."
            raise Unauthorized(problem=problem)
        authority = Authority(tenant_id=named.tenant_id, key_id=episode, scopes=frozenset({"train"}))
        return Caller(authority=authority, name=episode)

    @property
    def _signature(self) -> Signature:
        return Signature(secret=self.secret, purpose=b"mint episode")
