"""Choose an engine: the one nearest to the adapter, then to the prompt, then the idlest, unless it is hot.

Pure: the same options give the same order in every process, so that all gateways agree without talking.
A router's knowledge of adapters may be outdated: it chooses an engine, and the engine itself decides.
Knowledge of an ended run of an engine (its epoch) is dropped, and what is remembered is bounded.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType

from mint_common.generation import FULL_CACHE, AdapterPlaces, Place
from mint_common.homes import weight_of
from mint_common.ids import Digest, EngineId

HOT_LOAD = 16
BUSY_LOAD = 4
"""Open requests below which an engine is never said to have more than its share."""
MAX_SHARE = 1.3
"""Open tokens of an engine, over the mean of its base's engines, above which it loses ties: consistent
hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018)."""
FILLING_CACHE = 0.75
"""Share of an engine's KV blocks in use from which an engine with more free blocks is preferred."""
MAX_PER_ENGINE = 8192
_MAX_ANSWERS = 20
"""Answers of an engine, a few seconds apart, of which the first names all places and the others changes."""
_NOWHERE: Mapping[EngineId, "Nearness"] = MappingProxyType({})


class Nearness(IntEnum):
    """Distance of an adapter from running on an engine; a greater value is nearer."""

    ABSENT = 0
    STORED = 1  # on the engine's own disk
    HOST = 2  # in its host memory
    SLOT = 3  # in a slot


NEARNESS = {"stored": Nearness.STORED, "host": Nearness.HOST, "slot": Nearness.SLOT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One engine that serves the base; ``load`` and ``tokens`` count the requests that are open on it.

    ``name`` tells the options apart; ``engine_id`` is the engine's own name, by which homes are found.
    ``known_bytes`` is how much of the prompt the engine has read before, ``kv_share`` the share of its KV
    blocks in use.
    """

    name: str
    engine_id: str = ""
    nearness: Nearness = Nearness.ABSENT
    load: int = 0
    tokens: int = 0
    known_bytes: int = 0
    kv_share: float = 0.0

    @property
    def is_ready(self) -> bool:
        """Return whether it has the adapter in memory and is not hot."""
        return self.nearness >= Nearness.HOST and self.load < HOT_LOAD


def order_engines(options: Iterable[Option], key: str, *, hot_load: int = HOT_LOAD) -> Sequence[Option]:
    """Return the engines in the order in which to try them; ``key`` is the digest ("": the bare base).

    The nearest comes first; among equally near ones the digest decides, so that an unloaded adapter always
    goes to its first home (`mint_common.homes`). The bare base is equally near everywhere.

    Of the engines that have the adapter in memory, the one that knows most of the prompt comes first, and one
    with more than its share of the open tokens last: reading a prompt again, or filling a slot, costs less
    than a load. Among equals the one with more KV cache free comes first, by the steps `FILLING_CACHE` and
    `FULL_CACHE`: a sequence that fits must not wait behind a full cache. If nothing else decides, the bare
    base goes to the idlest.

    A hot engine comes after all others: it has ``hot_load`` open requests, and twice as many as the idlest.
    """
    candidates = list(options)
    if len(candidates) == 1:
        return candidates
    idlest = min((option.load for option in candidates), default=0)

    share = MAX_SHARE * sum(option.tokens for option in candidates) / max(1, len(candidates))

    def rank(option: Option) -> tuple[object, ...]:
        is_hot = option.load >= hot_load and option.load > 2 * idlest
        in_memory = not key or option.nearness >= Nearness.HOST
        has_more = in_memory and option.load >= BUSY_LOAD and option.tokens > share
        known_bytes = option.known_bytes if in_memory else 0
        open_work = (option.tokens, option.load) if not key or is_hot else ()
        near, weight = option.nearness, weight_of(option.engine_id or option.name, key)
        tier = -min(near, Nearness.HOST)
        filled = _filled(option.kv_share) if in_memory else 0
        return is_hot, tier, has_more, -known_bytes, -near, filled, open_work, -weight, option.load

    return sorted(candidates, key=rank)


def _filled(kv_share: float) -> int:
    """Return how full a KV cache is, in steps: the order changes with them alone, not with each report."""
    return (kv_share >= FILLING_CACHE) + (kv_share >= FULL_CACHE)


def _nearness(place: Place | None) -> Nearness:
    return Nearness.ABSENT if place is None else NEARNESS[place]


@dataclass(slots=True, kw_only=True)
class _Run:
    engine_id: EngineId
    epoch: str
    held: OrderedDict[Digest, None] = field(default_factory=OrderedDict)
    version: str = ""
    answers: int = 0


class ResidencyMap:
    """Adapters by engine; the least recently reported is dropped first."""

    def __init__(self, *, max_per_engine: int = MAX_PER_ENGINE) -> None:
        self._most = max_per_engine
        self._runs: dict[EngineId, _Run] = {}
        self._holders: dict[Digest, dict[EngineId, Nearness]] = {}

    def holders(self, digest: Digest) -> Mapping[EngineId, Nearness]:
        """Return the engines that are believed to have an adapter, and how near it is to each."""
        return self._holders.get(digest, _NOWHERE)

    def nearness(self, engine_id: EngineId, digest: Digest) -> Nearness:
        """Return how near an adapter is believed to be."""
        return self.holders(digest).get(engine_id, Nearness.ABSENT)

    def correct(self, engine_id: EngineId, epoch: str, places: Iterable[tuple[Digest, Place]]) -> None:
        """Replace all that is known of an engine by its own answer."""
        self.forget(engine_id)
        self._runs[engine_id] = run = _Run(engine_id=engine_id, epoch=epoch)
        for digest, place in places:
            self._remember(run, digest, NEARNESS[place])

    def version(self, engine_id: EngineId, epoch: str) -> str:
        """Return the version since which to ask an engine for changes, "" to ask for all places.

        All are asked for now and then: a late event may contradict the changes that came before it.
        """
        run = self._runs.get(engine_id)
        return "" if run is None or run.epoch != epoch or run.answers >= _MAX_ANSWERS else run.version

    def follow(self, engine_id: EngineId, epoch: str, told: AdapterPlaces) -> None:
        """Note an engine's answer: all places, or the changes since what was known of this run."""
        # The oldest entries are dropped first, so the nearest come last.
        newest = reversed(told.places.items())
        if told.whole:
            self.correct(engine_id, epoch, ((digest, place) for digest, place in newest if place))
        elif not all(self.note(engine_id, epoch, each, _nearness(place)) for each, place in newest):
            return  # the run was forgotten meanwhile
        if run := self._runs.get(engine_id):
            run.version, run.answers = told.version, run.answers + 1

    def note(self, engine_id: EngineId, epoch: str, digest: Digest, nearness: Nearness) -> bool:
        """Note how near an adapter is now; return False when the run is unknown and must be asked."""
        run = self._runs.get(engine_id)
        if run is None or run.epoch != epoch:
            return False
        if nearness is not Nearness.ABSENT:
            self._remember(run, digest, nearness)
        elif digest in run.held:
            del run.held[digest]
            self._drop(engine_id, digest)
        return True

    def forget(self, engine_id: EngineId) -> None:
        """Forget what is known of an engine that has not answered."""
        run = self._runs.pop(engine_id, None)
        for digest in run.held if run else ():
            self._drop(engine_id, digest)

    def _remember(self, run: _Run, digest: Digest, nearness: Nearness) -> None:
        run.held[digest] = None
        run.held.move_to_end(digest)
        self._holders.setdefault(digest, {})[run.engine_id] = nearness
        if len(run.held) > self._most:
            self._drop(run.engine_id, run.held.popitem(last=False)[0])

    def _drop(self, engine_id: EngineId, digest: Digest) -> None:
        holders = self._holders[digest]
        del holders[engine_id]
        if not holders:
            del self._holders[digest]
