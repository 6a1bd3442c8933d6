"""Which adapters this engine loads ahead of need: those that it is a home of, and successors of those in use.

Invariants: while the members of the fleet are not known, this engine is a home of all adapters, because a
load too many costs less than a first token that waits for one; what is remembered is bounded.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

from mint_common.homes import engines_at_home, homes_of
from mint_common.ids import BaseName, Digest, EngineId
from mint_common.members import Member

MAX_NAMES = 8192


class Homes:
    """The homes of adapters as this engine sees them; ``count`` is the number of each adapter's homes.

    ``is_in_use``: whether requests use an adapter on this engine, or have just done so.
    """

    def __init__(
        self, engine_id: EngineId, base: BaseName, *, count: int, is_in_use: Callable[[Digest], bool]
    ) -> None:
        self._engine_id = engine_id
        self._base = base
        self._count = count
        self._is_in_use = is_in_use
        self._engines: frozenset[EngineId] | None = None
        self._newest: OrderedDict[Hashable, Digest] = OrderedDict()

    def follow_members(self, members: Sequence[Member]) -> None:
        """Take the fleet's members as they are now."""
        self._engines = engines_at_home(members, self._base)

    def is_home(self, digest: Digest, *, name: Hashable) -> bool:
        """Return whether to load an adapter ahead of need; it is the newest one of ``name`` from now on.

        Requests that use the previous one of the name will ask for this one where they are: each of those
        engines is a home as well.
        """
        previous = self._newest.pop(name, None)
        self._newest[name] = digest
        if len(self._newest) > MAX_NAMES:
            self._newest.popitem(last=False)
        if self._engines is None or (previous is not None and self._is_in_use(previous)):
            return True
        engines = self._engines | {self._engine_id}  # one that starts is about to be ready
        return self._engine_id in homes_of(digest, engines, count=self._count)
