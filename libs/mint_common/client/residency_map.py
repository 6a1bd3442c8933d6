"""What a router believes of the engines: which adapter is how near.

Beliefs, not truth: they choose an engine, and the engine itself decides. Invariants: nothing is believed of a
run of an engine (its epoch) that is over; what is remembered of an engine is bounded.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from mint_common.client.routing import Nearness
from mint_common.generation import AdapterStatus
from mint_common.ids import Digest, EngineId

MOST_PER_ENGINE = 8192

NEARNESS = {"stored": Nearness.STORED, "host": Nearness.HOST, "slot": Nearness.SLOT}


@dataclass(slots=True, kw_only=True)
class _Run:
    epoch: str
    near: OrderedDict[Digest, Nearness] = field(default_factory=OrderedDict)


class ResidencyMap:
    """Adapters by engine; the least recently reported is dropped first."""

    def __init__(self, *, most_per_engine: int = MOST_PER_ENGINE) -> None:
        self._most = most_per_engine
        self._runs: dict[EngineId, _Run] = {}

    def nearness(self, engine_id: EngineId, digest: Digest) -> Nearness:
        """Return how near an adapter is believed to be."""
        run = self._runs.get(engine_id)
        return run.near.get(digest, Nearness.ABSENT) if run else Nearness.ABSENT

    def count(self, engine_id: EngineId) -> int:
        """Return how many adapters are remembered of an engine."""
        run = self._runs.get(engine_id)
        return len(run.near) if run else 0

    def correct(self, engine_id: EngineId, epoch: str, adapters: Iterable[AdapterStatus]) -> None:
        """Replace all that is known of an engine by its own answer."""
        run = _Run(epoch=epoch)
        self._runs[engine_id] = run
        for status in adapters:
            if status.readiness == "ready" or status.tier == "stored":
                self._remember(run, status.digest, NEARNESS[status.tier])

    def loaded(self, engine_id: EngineId, epoch: str, digest: Digest, nearness: Nearness) -> bool:
        """Believe an adapter.loaded; False when it is of a run that is not known, which must be asked."""
        run = self._runs.get(engine_id)
        if run is None or run.epoch != epoch:
            return False
        self._remember(run, digest, nearness)
        return True

    def left(self, engine_id: EngineId, epoch: str, digest: Digest, nearness: Nearness) -> bool:
        """Believe that an adapter is only this near any more; False as for `loaded`."""
        run = self._runs.get(engine_id)
        if run is None or run.epoch != epoch:
            return False
        run.near.pop(digest, None)
        if nearness is not Nearness.ABSENT:
            self._remember(run, digest, nearness)
        return True

    def forget(self, engine_id: EngineId) -> None:
        """Believe nothing of an engine: it has not answered."""
        self._runs.pop(engine_id, None)

    def _remember(self, run: _Run, digest: Digest, nearness: Nearness) -> None:
        run.near[digest] = nearness
        run.near.move_to_end(digest)
        if len(run.near) > self._most:
            run.near.popitem(last=False)
