"""Which revisions computed numbers that are not finite on this engine, and are not asked again."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mint_common.errors import NonFiniteOutput
from mint_common.ids import Digest

MOST = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """At most ``capacity`` digests; the one that came first is forgotten first, and would be found again."""

    capacity: int = MOST
    digests: Mapping[Digest, None] = field(default_factory=dict)

    def check(self, digest: Digest) -> None:
        """Refuse a digest that is here. Raises NonFiniteOutput."""
        if digest in self.digests:
            raise NonFiniteOutput(digest=digest)

    def enter(self, digest: Digest) -> "Quarantine":
        """Take a digest in; one that is here stays where it is."""
        if digest in self.digests:
            return self
        kept = list(self.digests)[-(self.capacity - 1) :] if self.capacity > 1 else []
        return replace(self, digests=dict.fromkeys([*kept, digest]))

    def leave(self, digest: Digest) -> "Quarantine":
        """Let a digest go, if it is here."""
        if digest not in self.digests:
            return self
        return replace(self, digests={each: None for each in self.digests if each != digest})
