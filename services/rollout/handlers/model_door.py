"""The open episodes of this process, each at an address with a random token."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mint_common.errors import NotFound
from mint_common.ids import BaseName, TenantId
from services.rollout.handlers.open_episode import DoorParts, EpisodeTerms, OpenEpisode

PREFIX = "/e/"
_TOKEN_BYTES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDoor:
    """Opens episodes; their calls arrive at the unix socket ``socket``."""

    parts: DoorParts
    socket: Path
    _episodes: dict[str, OpenEpisode] = field(default_factory=dict, init=False)

    @contextmanager
    def opened(self, terms: EpisodeTerms) -> Iterator[tuple[str, OpenEpisode]]:
        """Return the path of an episode at the socket, and the episode, which the end of the block ends."""
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        episode = self._episodes[token] = OpenEpisode(terms=terms, parts=self.parts)
        try:
            yield f"{PREFIX}{token}", episode
        finally:
            del self._episodes[token]
            episode.end()

    async def until_answered(self, base: BaseName, *, tenant_id: TenantId) -> None:
        """Wait until an engine of a base answers. Raises as `EngineRequests.retried`."""
        await self.parts.requests.retried(tenant_id, lambda: self.parts.sampler.max_context(base))

    def episode(self, token: str) -> OpenEpisode:
        """Return the open episode of a token. Raises NotFound."""
        found = self._episodes.get(token)
        if found is None:
            raise NotFound(kind="open episode", name="of this address")
        return found
