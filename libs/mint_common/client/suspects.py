"""Requests that ran when an engine died, of which one may have been the cause.

Invariants: what one tenant's requests did says nothing of another's equal ones; what is remembered is
bounded, of a tenant too. A process remembers what it sent itself: several gateways each learn of their own.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import ceil

import msgspec

from mint_common.errors import EngineDied, RequestEndsEngines, RequestHeldBack
from mint_common.generation import RESTART_SECONDS, SampleRequest
from mint_common.ids import BaseName, TenantId

MOST_DEATHS = 2
"""So often an engine dies under a request before it is refused: once may be anybody's fault."""
REMEMBERED_SECONDS = 600.0
MOST_OF_A_TENANT = 512
MOST_TENANTS = 1024
APART_SECONDS = 1.0
"""How long a suspect runs before the next one begins, unless it ends earlier: what ends an engine mostly does
so at its first step."""
RESTORED_SECONDS = 2.0 * RESTART_SECONDS
"""How long a suspect waits for the engine that died under it, before it goes to another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestKey:
    """What tells a request apart from others: repeated by its tenant, it has the same one."""

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


@dataclass(slots=True)
class Suspects:
    """The suspects by tenant, the least recently noted forgotten first."""

    _tenants: OrderedDict[TenantId, OrderedDict[RequestKey, _Suspect]] = field(default_factory=OrderedDict)
    _running: dict[BaseName, tuple[RequestKey, float]] = field(default_factory=dict)

    def has_any(self, tenant_id: TenantId) -> bool:
        """Return whether a request of a tenant may be one: else its key need not be made."""
        return tenant_id in self._tenants

    def note_death(self, key: RequestKey, *, now: float) -> None:
        """Note that an engine died while it ran a request."""
        known = self._find(key, now=now)
        own = self._tenants.setdefault(key.tenant_id, OrderedDict())
        own[key] = _Suspect(deaths=1 + (known.deaths if known else 0), died_at=now)
        own.move_to_end(key)
        self._tenants.move_to_end(key.tenant_id)
        if len(own) > MOST_OF_A_TENANT:
            own.popitem(last=False)
        if len(self._tenants) > MOST_TENANTS:
            self._tenants.popitem(last=False)

    def begin(self, key: RequestKey, *, is_restarting: bool, now: float) -> None:
        """Let a request begin; `end` says that it has ended.

        ``is_restarting``: an engine of its base has just died, and is not back. A suspect may run once more:
        while all engines of its base stand, so that it ends no second one beside the first, and apart from
        other suspects, so that none of them is blamed for it. Raises RequestEndsEngines, RequestHeldBack.
        """
        suspect = self._find(key, now=now)
        if suspect is None:
            return
        if suspect.deaths >= MOST_DEATHS:
            left = suspect.died_at + REMEMBERED_SECONDS - now
            raise RequestEndsEngines(deaths=suspect.deaths, seconds=ceil(left))
        free_at = suspect.died_at + RESTORED_SECONDS if is_restarting else now
        if key.base in self._running:
            free_at = max(free_at, self._running[key.base][1] + APART_SECONDS)
        if free_at > now:
            raise RequestHeldBack(retry_after_seconds=ceil(free_at - now))
        self._running[key.base] = key, now

    def end(self, key: RequestKey, *, is_answered: bool) -> None:
        """Note that a request runs no more, and that it ends no engine if it was answered."""
        if self._running.get(key.base, (None, 0.0))[0] == key:
            del self._running[key.base]
        if is_answered and key in self._tenants.get(key.tenant_id, ()):
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
    """One request on its way: held back if it is a suspect, and noted if an engine dies under it.

    Its key is made only where it is needed: it takes reading the whole request.
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
        self._key = key
        self._is_restarting = is_restarting
        self._now = now
        self._is_suspect = suspects.has_any(tenant_id)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the request until its answer begins. Raises as `Suspects.begin`."""
        if self._is_suspect:
            self._suspects.begin(self._key(), is_restarting=self._is_restarting(), now=self._now())
        try:
            yield
        except BaseException as error:
            self.end(error)
            raise
        if self._is_suspect:
            self._suspects.end(self._key(), is_answered=False)

    def end(self, error: BaseException | None) -> None:
        """Note how the answer ended; None: whole."""
        if self._is_suspect:
            self._suspects.end(self._key(), is_answered=error is None)
        if isinstance(error, EngineDied):
            self._suspects.note_death(self._key(), now=self._now())
