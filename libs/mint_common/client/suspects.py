"""Suspects: requests that ran when an engine died, one of which may be the cause.

Invariants: one tenant's requests do not affect equal ones of another; what is remembered is
bounded, also per tenant. A process remembers only its own requests: several gateways each learn separately.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from math import ceil

import msgspec

from mint_common.errors import EngineDied, RequestEndsEngines, RequestHeldBack
from mint_common.generation import RESTART_SECONDS, SampleRequest
from mint_common.ids import BaseName, TenantId

TOGETHER = (32, 4, 1)
"""Maximum number of suspects that start together after the first, second and third engine death. After a
further death, or one with no other suspect running, the request is refused; earlier deaths may be another
suspect's fault."""
BLAMED_SECONDS = 30.0
"""A request that has run longer than this is not blamed: most that end an engine do so in its first step."""
REMEMBERED_SECONDS = 600.0
MAX_OF_A_TENANT = 512
MAX_TENANTS = 1024
APART_SECONDS = 1.0
"""Time that suspects run before the next ones start, unless they end earlier."""
RESTORED_SECONDS = 2.0 * RESTART_SECONDS
"""Time that a suspect waits for the engine that died under it, before it goes to another one."""
HELD_SECONDS = RESTORED_SECONDS
"""Time that a suspect waits for its turn before it is refused with a retryable error."""
_PAUSE_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestKey:
    """Identity of a request: the same for its repeats by its tenant."""

    tenant_id: TenantId
    base: BaseName
    content_hash: bytes


def request_key(tenant_id: TenantId, base: BaseName, *content: bytes) -> RequestKey:
    """Return the key of a request of this content."""
    content_hash = hashlib.sha256()
    for part in content:
        content_hash.update(len(part).to_bytes(8, "big") + part)
    return RequestKey(tenant_id=tenant_id, base=base, content_hash=content_hash.digest())


def sample_key(base: BaseName, request: SampleRequest) -> RequestKey:
    """Return the key of a sample, which may have another id at each try."""
    content = msgspec.msgpack.encode(replace(request, request_id=""))
    return request_key(request.tenant_id, base, content)


@dataclass(slots=True, kw_only=True)
class _Suspect:
    deaths: int
    died_at: float
    is_refused: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class SuspectRun:
    """Another run of a suspect; ``is_alone``: no other suspect has run at the same time."""

    key: RequestKey
    began_at: float
    together: int
    is_alone: bool


@dataclass(slots=True)
class Suspects:
    """The suspects by tenant, the least recently noted forgotten first."""

    _tenants: OrderedDict[TenantId, OrderedDict[RequestKey, _Suspect]] = field(default_factory=OrderedDict)
    _running: dict[BaseName, list[SuspectRun]] = field(default_factory=dict)

    def has_any(self, tenant_id: TenantId) -> bool:
        """Return whether a request of a tenant may be one: else its key need not be made."""
        return tenant_id in self._tenants

    def note_death(self, key: RequestKey, run: SuspectRun | None = None, *, now: float) -> None:
        """Note that an engine died while it ran a request; ``run`` if that was a suspect already."""
        known = self._find(key, now=now)
        if known is None:
            known = _Suspect(deaths=1, died_at=now)
        elif run is not None and known.died_at <= run.began_at >= now - BLAMED_SECONDS:
            deaths = known.deaths + 1
            is_refused = run.is_alone or deaths > len(TOGETHER)
            known = _Suspect(deaths=deaths, died_at=now, is_refused=is_refused)
        else:
            known.died_at = now
        own = self._tenants.setdefault(key.tenant_id, OrderedDict())
        own[key] = known
        own.move_to_end(key)
        self._tenants.move_to_end(key.tenant_id)
        if len(own) > MAX_OF_A_TENANT:
            own.popitem(last=False)
        if len(self._tenants) > MAX_TENANTS:
            self._tenants.popitem(last=False)

    def begin(self, key: RequestKey, *, is_restarting: bool, now: float) -> SuspectRun | None:
        """Start a request; end a suspect's run with `end`.

        ``is_restarting``: an engine of its base has just died, and is not back. A suspect may run once more
        while all engines of its base are up, so that it does not end a second one too, and with few other
        suspects: fewer after each death, until the request that ends engines runs alone. Raises
        RequestEndsEngines, RequestHeldBack.
        """
        suspect = self._find(key, now=now)
        if suspect is None:
            return None
        if suspect.is_refused:
            left = suspect.died_at + REMEMBERED_SECONDS - now
            raise RequestEndsEngines(deaths=suspect.deaths, seconds=ceil(left))
        together = TOGETHER[suspect.deaths - 1]
        running = self._running.get(key.base, [])
        free_at = suspect.died_at + RESTORED_SECONDS if is_restarting else now
        recent = [run for run in running if run.began_at > now - APART_SECONDS]
        if recent and len(recent) >= min(together, *(run.together for run in recent)):
            free_at = max(free_at, recent[0].began_at + APART_SECONDS)
        if free_at > now:
            raise RequestHeldBack(retry_after_seconds=ceil(free_at - now))
        for other in running:
            other.is_alone = False
        begun = SuspectRun(key=key, began_at=now, together=together, is_alone=not running)
        self._running.setdefault(key.base, []).append(begun)
        return begun

    def end(self, run: SuspectRun) -> None:
        """Let the next suspect begin. Idempotent."""
        running = self._running.get(run.key.base, [])
        if run in running:
            running.remove(run)
        if not running:
            self._running.pop(run.key.base, None)

    def clear(self, key: RequestKey) -> None:
        """Note that a request was answered to its end: it ends no engine."""
        if key in self._tenants.get(key.tenant_id, ()):
            self._forget(key)

    def _find(self, key: RequestKey, *, now: float) -> _Suspect | None:
        suspect = self._tenants.get(key.tenant_id, OrderedDict[RequestKey, _Suspect]()).get(key)
        if suspect is not None and now - suspect.died_at >= REMEMBERED_SECONDS:
            self._forget(key)
            return None
        return suspect

    def _forget(self, key: RequestKey) -> None:
        own = self._tenants[key.tenant_id]
        del own[key]
        if not own:
            del self._tenants[key.tenant_id]


class Guard:
    """One open request: a suspect waits for its turn, and an engine's death under it is recorded.

    Its key is computed only when needed, because that reads the whole request.
    """

    def __init__(
        self,
        suspects: Suspects,
        tenant_id: TenantId,
        key: Callable[[], RequestKey],
        *,
        is_restarting: Callable[[], bool],
        now: Callable[[], float],
    ) -> None:
        self._suspects = suspects
        self._key = cache(key)
        self._is_restarting = is_restarting
        self._now = now
        self._is_suspect = suspects.has_any(tenant_id)
        self._run: SuspectRun | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the request until its answer begins. Raises as `Suspects.begin`, after a wait."""
        if self._is_suspect:
            self._run = await self._begun()
        try:
            yield
        except BaseException as error:
            self.end(error, is_whole=False)
            raise
        if self._run is not None:
            self._suspects.end(self._run)

    def end(self, error: BaseException | None, *, is_whole: bool) -> None:
        """Note how the answer ended; one that its client left before its end says nothing."""
        if self._run is not None:
            self._suspects.end(self._run)
        if isinstance(error, EngineDied):
            self._suspects.note_death(self._key(), self._run, now=self._now())
        elif self._run is not None and is_whole:
            self._suspects.clear(self._key())

    async def _begun(self) -> SuspectRun | None:
        """Wait for the turn of a suspect: its client may have no retries left."""
        loop = asyncio.get_running_loop()
        until = loop.time() + HELD_SECONDS
        while True:
            try:
                return self._suspects.begin(self._key(), is_restarting=self._is_restarting(), now=self._now())
            except RequestHeldBack:
                if loop.time() >= until:
                    raise
            await asyncio.sleep(_PAUSE_SECONDS)
