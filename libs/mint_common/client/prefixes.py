"""Which engines have read the beginning of a prompt, and may have it in their prefix caches.

Invariants: what is remembered is bounded in bytes; a beginning is found only for the tenant, the base and the
revision that it was read for, as the engines' caches are salted with these; a tenant that uses more than
its share displaces its own beginnings. Outdated knowledge costs a prompt that is read again.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from sys import intern

from mint_common.generation import EngineInfo
from mint_common.ids import BaseName, Digest, EngineId, TenantId

BLOCK_BYTES = 256
"""Least length of a beginning that counts, about four blocks of vLLM's cache."""
READ_BYTES = 64 << 10
"""Length up to which prompts are compared: 16,000 tokens."""
MAX_BYTES = 64 << 20
ENTRY_BYTES = 256
"""Size of one remembered beginning, overhead of the tables included."""
MAX_ENGINES = 3
"""Engines that are remembered for one beginning, the latest first."""

EngineRun = str
"""An engine between two of its starts: the next one begins with an empty cache."""


def lengths_of(size_bytes: int) -> list[int]:
    """Return the lengths in bytes at which beginnings are compared: steps of a block, later of an eighth."""
    lengths, at = [], BLOCK_BYTES
    while at <= min(size_bytes, READ_BYTES):
        lengths.append(at)
        at += max(BLOCK_BYTES, at // 8)
    return lengths


def run_of(info: EngineInfo) -> EngineRun:
    """Return the name of an engine's present run."""
    return intern(f"{info.engine_id}/{info.epoch}")


def engine_of(run: EngineRun) -> EngineId:
    """Return the engine of a run."""
    return EngineId(run.rpartition("/")[0])


@dataclass(frozen=True, slots=True)
class Beginnings:
    """The beginnings of one prompt, as hashes by their length in bytes, the longest first."""

    tenant_id: TenantId
    marks: tuple[tuple[int, int], ...]


class PrefixMap:
    """Engines by the beginnings of prompts; the least recently read of a tenant is forgotten first."""

    def __init__(self, *, secret: bytes, max_bytes: int = MAX_BYTES) -> None:
        """``secret`` keys the hashes, so that clients cannot construct prompts that collide."""
        self._secret = secret
        self._most = max_bytes // ENTRY_BYTES
        self._size = 0
        self._tenants: OrderedDict[TenantId, OrderedDict[int, tuple[EngineRun, ...]]] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        """Return the memory that is used, at most."""
        return self._size * ENTRY_BYTES

    def beginnings(
        self, tenant_id: TenantId, base: BaseName, digest: Digest | None, prompt: bytes
    ) -> Beginnings:
        """Return the beginnings of a prompt; of the same text or tokens they are the same."""
        whose = "\n".join((tenant_id, base, digest or "")).encode()
        content = hashlib.blake2b(whose, key=self._secret, digest_size=8)
        marks = []
        for start, end in pairwise((0, *lengths_of(len(prompt)))):
            content.update(prompt[start:end])
            marks.append((int.from_bytes(content.digest()), end))
        return Beginnings(tenant_id, tuple(reversed(marks)))

    def known_bytes(self, prompt: Beginnings) -> Mapping[EngineRun, int]:
        """Return how much of a prompt each engine has read, in bytes; others have read nothing of it."""
        own, found = self._tenants.get(prompt.tenant_id), dict[EngineRun, int]()
        for mark, length in prompt.marks if own else ():
            for run in own.get(mark, ()) if own else ():
                found.setdefault(run, length)
        return found

    def note(self, prompt: Beginnings, run: EngineRun) -> None:
        """Remember that an engine has read a prompt."""
        if not prompt.marks:
            return
        own = self._tenants.setdefault(prompt.tenant_id, OrderedDict())
        self._tenants.move_to_end(prompt.tenant_id)
        for mark, _ in prompt.marks:  # the shortest last: most prompts share it
            before = own.pop(mark, None)
            if before is None:
                self._size += 1
            others = [each for each in before or () if each != run]
            own[mark] = (run, *others[: MAX_ENGINES - 1])
        while self._size > self._most:
            self._forget_one(prompt.tenant_id)

    def _forget_one(self, tenant_id: TenantId) -> None:
        """Forget the oldest of a tenant that uses more than its share, or of the one that is idle longest."""
        if len(self._tenants.get(tenant_id, ())) * len(self._tenants) <= self._most:
            tenant_id = next(iter(self._tenants))
        own = self._tenants[tenant_id]
        own.popitem(last=False)
        self._size -= 1
        if not own:
            del self._tenants[tenant_id]
