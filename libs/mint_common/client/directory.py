"""The engines of a fleet, and the choice among them.

Invariants:
- A loader that stopped answering gets no requests until it has answered again.
- One failed or long request takes no engine away from others; only the engine's own report does.
- A request is tried on another engine only while none of its answer has been passed on, and never after an
  engine has failed or died while it ran it.
- While an engine of its base is known, no request waits for an unknown loader, and a silent loader does not
  delay the others.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TypeVar

from mint_common.bus.following import follow_bus
from mint_common.bus.port import Bus, Message
from mint_common.client.adapter_news import NEWS, news_of
from mint_common.client.choice import EngineChoice, RoutedRequest
from mint_common.client.engine import EngineClient
from mint_common.client.engine_clients import EngineClients
from mint_common.client.engine_errors import Tries, is_away, is_for_next, lost_engine, retry_in_seconds
from mint_common.client.http import InternalHttp
from mint_common.client.peer_watch import ASK_SECONDS
from mint_common.client.relayed import Relayed
from mint_common.client.routing import NEARNESS, Nearness
from mint_common.client.served_bases import ServedBases
from mint_common.client.serving import KnownEngines, ServingEngines
from mint_common.client.silence import SilentEngines
from mint_common.client.suspects import Guard, RequestKey, Suspects, request_key, sample_key
from mint_common.errors import EngineDied, EngineRestarting, MintError, Stopping, Unavailable
from mint_common.generation import (
    AdapterStatus,
    CacheUse,
    CallFacts,
    EngineInfo,
    EngineLimits,
    Sampled,
    SampleRequest,
)
from mint_common.ids import BaseName, Digest, EngineId, TenantId
from mint_common.inference.operations import ApiOperation
from mint_common.members import Member
from mint_common.waiting import cancel_all

T = TypeVar("T")

_REASK_SECONDS = 2.0
_CORRECT_SECONDS = 3.0
_ANSWER_SECONDS = 5.0  # a silent loader is then left out of a list
_LOST_SECONDS = 180.0  # one that is away longer is not told to come back
_MAX_ADAPTERS = 4096
_UNROUTED = RoutedRequest()


class EngineDirectory:
    """Finds the engines of a base and routes requests to them.

    Descriptions are cached. A loader that is not known is asked again at most every two seconds, or at once
    when no other engine serves the base. Without `follow`, nothing is known of residency, and a digest
    always goes to the same engine. ``check_served`` raises for a base that no engine will serve.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        token: str,
        timeout_seconds: float = 30.0,
        ask_seconds: float = ASK_SECONDS,
        check_served: Callable[[BaseName], Awaitable[None]] | None = None,
    ) -> None:
        """Connect later; the times are those of `InternalHttp`."""
        self._served_bases = ServedBases(check_served)

        def make(url: str) -> EngineClient:
            times = {"timeout_seconds": timeout_seconds, "ask_seconds": ask_seconds}
            return EngineClient(InternalHttp(url, token=token, peer="an engine", lost=lost_engine, **times))

        self._fleet = EngineClients(urls, make)
        self._clients = self._fleet.by_url
        self._known = KnownEngines(self._fleet.is_alias)
        self._lost: dict[str, tuple[EngineInfo, float]] = {}
        self._doubted: dict[str, asyncio.Task[None]] = {}
        self._silent = SilentEngines(lambda url: self._clients[url].describe())
        self._suspects = Suspects()
        self._choice = EngineChoice()
        self._asked_at = -_REASK_SECONDS
        self._meeting: dict[str, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._stale = {url: asyncio.Event() for url in self._clients}
        self._following: asyncio.TaskGroup | None = None
        self._corrections: dict[str, asyncio.Task[None]] = {}

    def follow_members(self, members: Sequence[Member]) -> None:
        """Use the fleet's members beside the fixed list; those that start or drain come behind others."""
        added, left = self._fleet.follow(members)
        self._known.members_changed()
        for url in added:
            self._stale[url] = asyncio.Event()
            self._follow_engine(url)
        for url, client in left.items():
            self._forget(url)
            self._silent.forget(url)
            del self._stale[url]
            for tasks in (self._corrections, self._meeting, self._doubted):
                if task := tasks.pop(url, None):
                    task.cancel()
            self._closing.add(closing := asyncio.create_task(client.aclose()))
            closing.add_done_callback(self._closing.discard)
        if added:
            self._ask_unknown()

    def clients(self) -> list[EngineClient]:
        """Return a client of every loader, once each, whether or not it answers."""
        unknown = self._clients.keys() - self._known.by_url.keys()
        return [
            each for url, each in self._clients.items() if url in unknown or self._known.is_served_at(url)
        ]

    async def engines(self) -> list[EngineInfo]:
        """Return every engine that answers now or did when last asked."""
        self._ask_unknown()
        if self._meeting:
            await asyncio.wait(self._meeting.values(), timeout=_ANSWER_SECONDS)
        return [self._known.by_url[url] for url in self._clients if self._known.is_served_at(url)]

    def restarting(self) -> list[tuple[EngineInfo, int]]:
        """Return the engines that have just stopped answering, and in how many seconds to ask each again."""
        now = time.monotonic()
        away = [(info, now - since) for info, since in self._lost.values()]
        return [
            (info, retry_in_seconds(info, seconds))
            for info, seconds in away
            if seconds < max(_LOST_SECONDS, 2 * info.start_seconds)
        ]

    def contexts(self) -> Mapping[BaseName, int]:
        """Return the context of each base that a known engine serves, the least of its engines'."""
        engines = self._known.by_url.values()
        return {each.base: each.max_context for each in sorted(engines, key=lambda each: -each.max_context)}

    def cache_uses(self, base: BaseName) -> dict[EngineId, CacheUse | None]:
        """Return the use of the KV cache of each engine of a base that answers, None if it does not say."""
        infos = self._serving(base).infos
        return {info.engine_id: self._choice.cache_use(url) for url, info in infos.items()}

    async def limits(self, base: BaseName) -> EngineLimits:
        """Return the limits that every known engine of a base accepts; raises as `engines_of`."""
        return EngineLimits.of(await self.engines_of(base))

    async def engines_of(self, base: BaseName) -> Collection[EngineInfo]:
        """Return the descriptions of a base's known engines. Raises Unavailable while none is known."""
        if not self._serving(base).urls:
            await self._order(base)
        return self._serving(base).infos.values()

    async def describe(self, base: BaseName) -> EngineInfo:
        """Return the description of one engine of a base. Raises Unavailable."""
        return self._known.by_url[(await self._order(base))[0]]

    async def find(self, base: BaseName, *, digest: Digest | None = None) -> EngineClient:
        """Return the engine that a request for this digest would go to now. Raises Unavailable."""
        return self._clients[(await self._order(base, RoutedRequest(digest=digest)))[0]]

    async def serve(
        self, base: BaseName, operation: ApiOperation, body: bytes, facts: CallFacts, *, max_tokens: int = 256
    ) -> Relayed:
        """Let an engine of the base answer a request of an inference API; as `EngineClient.serve`.

        ``max_tokens`` is what its answers may have in all, for the choice of the engine.
        An engine that does not answer or is full passes the request on to the next one, if there is one; one
        that fails on it still answers, and raises PeerFailed. One that dies while it runs it raises
        EngineDied; `Suspects` handles its repeats.
        """
        is_choice = len(self._serving(base).urls) > 1
        routed = self._choice.of_call(base, operation, body, facts, tokens=max_tokens, is_choice=is_choice)
        content = operation.encode(), (routed.digest or "").encode(), body
        key = partial(request_key, facts.tenant_id, base, *content)
        guard = self._guard(facts.tenant_id, base, key)
        async with guard.running():
            url, relayed = await self._first(
                base, routed, lambda engine: engine.serve(operation, body, facts)
            )
        relayed.at_end(partial(self._ended, url, routed))
        relayed.at_end(lambda error: guard.end(error, is_whole=relayed.is_whole))
        self._note_served(url, routed, routed.digest)
        return relayed

    async def sample(self, base: BaseName, request: SampleRequest) -> Sampled:
        """Sample on an engine of the base; as `EngineClient.sample`.

        The request passes on to the next engine as in `serve`.
        """
        routed = self._choice.of_sample(base, request, is_choice=len(self._serving(base).urls) > 1)
        key = partial(sample_key, base, request)
        guard = self._guard(request.tenant_id, base, key)
        async with guard.running():
            url, sampled = await self._first(base, routed, lambda engine: engine.sample(request))
        guard.end(None, is_whole=True)
        self._ended(url, routed, None)
        self._note_served(url, routed, sampled.revision)
        return sampled

    async def _first(
        self, base: BaseName, routed: RoutedRequest, call: Callable[[EngineClient], Awaitable[T]]
    ) -> tuple[str, T]:
        """Call engines in order, within `Tries`; return the first that can, and its answer, open on it."""
        urls, tries = await self._order(base, routed), Tries()
        for url in urls:
            try:
                return url, await self._opened(url, routed, call)
            except MintError as error:
                tries = tries.after(error)
                is_last = url == urls[-1] or tries.are_spent
                if (is_last and not isinstance(error, EngineRestarting)) or not is_for_next(error):
                    raise
            if tries.are_spent:
                break
        raise await self._no_engine(base)

    async def _opened(
        self, url: str, routed: RoutedRequest, call: Callable[[EngineClient], Awaitable[T]]
    ) -> T:
        client = self._clients.get(url)
        if client is None:
            raise EngineRestarting(retry_after_seconds=1)  # it has left the fleet since it was chosen
        self._choice.begin(url, routed)
        try:
            with self._silent.waiting(url):
                return await call(client)
        except BaseException as error:
            self._ended(url, routed, error)
            raise

    def _ended(self, url: str, routed: RoutedRequest, error: BaseException | None) -> None:
        self._choice.end(url, routed)
        self._note_failure(url, error)

    def _guard(self, tenant_id: TenantId, base: BaseName, key: Callable[[], RequestKey]) -> Guard:
        is_restarting = partial(self._is_restarting, base)
        return Guard(self._suspects, tenant_id, key, is_restarting=is_restarting, now=time.monotonic)

    def _is_restarting(self, base: BaseName) -> bool:
        """Return whether an engine of a base has just died, or may have."""
        if time.monotonic() - self._asked_at >= _REASK_SECONDS:
            self._ask_unknown()
        doubted = (self._known.by_url[url] for url in self._doubted if url in self._known.by_url)
        return any(info.base == base for info in (*doubted, *(info for info, _ in self.restarting())))

    def holds(self, base: BaseName, digest: Digest) -> bool:
        """Return whether an engine of the base is believed to have an adapter in memory."""
        serving, held = self._serving(base), self._choice.residency.holders(digest)
        return any(
            near >= Nearness.HOST and serving.url_of(engine_id) is not None
            for engine_id, near in held.items()
        )

    def known(self, client: EngineClient) -> EngineInfo | None:
        """Return what an engine said of itself last."""
        return self._known.by_url.get(self._fleet.url_of(client) or "")

    def believe(self, client: EngineClient, status: AdapterStatus) -> None:
        """Record where an adapter is from an engine's answer, before its event arrives."""
        info = self.known(client)
        if info is not None and status.readiness == "ready":
            self._choice.residency.note(info.engine_id, info.epoch, status.digest, NEARNESS[status.tier])

    def note_failure(self, client: EngineClient, error: Unavailable) -> None:
        """Note that an engine did not answer; it is queried again before its next use."""
        if (url := self._fleet.url_of(client)) is not None:
            self._note_failure(url, error)

    async def follow(self, bus: Bus) -> None:
        """Track until cancelled where adapters are: from events, and periodically from the engines."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(follow_bus(bus, NEWS, self._learn))
            self._following = tasks
            for url in self._clients:
                self._follow_engine(url)

    async def aclose(self) -> None:
        """Close all connections."""
        await cancel_all(*self._meeting.values(), *self._doubted.values())
        await self._silent.aclose()
        await asyncio.gather(*self._closing)
        for client in self._clients.values():
            await client.aclose()

    def _note_served(self, url: str, routed: RoutedRequest, digest: Digest | None) -> None:
        if (info := self._known.by_url.get(url)) is not None:
            self._choice.note_served(info, routed, digest)

    async def _order(self, base: BaseName, routed: RoutedRequest = _UNROUTED) -> list[str]:
        if not self._serving(base).urls or time.monotonic() - self._asked_at >= _REASK_SECONDS:
            self._ask_unknown()
        while not self._serving(base).urls and self._meeting:
            await asyncio.wait(self._meeting.values(), return_when=asyncio.FIRST_COMPLETED)
        serving = self._serving(base)
        if not serving.urls:
            raise await self._no_engine(base)
        return sorted(self._choice.order(serving, routed), key=self._doubt)

    def _doubt(self, url: str) -> tuple[bool, bool]:
        """Return a key that puts engines that start, drain or are doubted behind others, silent ones last."""
        return url in self._silent, url in self._doubted or self._fleet.is_last_choice(url)

    async def _no_engine(self, base: BaseName) -> Unavailable:
        back_in = [seconds for info, seconds in self.restarting() if info.base == base]
        if back_in:
            return EngineRestarting(retry_after_seconds=min(back_in))
        await self._served_bases.check(base)
        return Unavailable(what=f"an engine of base {base}", problem="no loader that answers serves it")

    def _serving(self, base: BaseName) -> ServingEngines:
        return self._known.serving(base)

    def _follow_engine(self, url: str) -> None:
        if self._following is not None:
            self._corrections[url] = self._following.create_task(self._correct(url))

    def _ask_unknown(self) -> None:
        self._asked_at = time.monotonic()
        for url in self._clients:
            if url not in self._known.by_url and url not in self._meeting:
                self._meeting[url] = asyncio.create_task(self._meet(url))

    async def _meet(self, url: str) -> None:
        try:
            info = await self._clients[url].describe()
        except MintError:
            return  # it does not answer, or is of a version that does not say
        finally:
            self._meeting.pop(url, None)
        self._lost.pop(url, None)
        if url not in self._known.by_url:
            self._known.learn(url, info)
            # Its answer is recorded at once; its other adapters are queried soon.
            self._choice.residency.correct(info.engine_id, info.epoch, ())
            self._stale[url].set()

    def _note_failure(self, url: str, error: BaseException | None) -> None:
        """Leave out an engine that says itself that it ends; after another failure, ask it."""
        is_doubtful = isinstance(error, EngineDied) or is_away(error)
        if isinstance(error, EngineRestarting | Stopping):
            self._forget(url)
        elif is_doubtful and url in self._known.by_url.keys() - self._doubted:
            self._doubted[url] = asyncio.create_task(self._check(url))

    async def _check(self, url: str) -> None:
        try:
            await self._clients[url].describe()
        except MintError as error:
            if is_away(error):
                self._forget(url)
        finally:
            self._doubted.pop(url, None)

    def _forget(self, url: str) -> None:
        info = self._known.forget(url)
        self._choice.forget(url, info)
        if info is not None:
            self._lost[url] = info, time.monotonic()

    def _learn(self, message: Message) -> None:
        if (news := news_of(message)) is not None and not self._choice.residency.note(*news):
            for stale in self._stale.values():
                stale.set()

    async def _correct(self, url: str) -> None:
        stale = self._stale[url]
        while True:
            stale.clear()
            await self._ask(url)
            try:
                async with asyncio.timeout(_CORRECT_SECONDS):
                    await stale.wait()
                await asyncio.sleep(_CORRECT_SECONDS / 10)  # a starting engine emits many events at once
            except TimeoutError:
                continue

    async def _ask(self, url: str) -> None:
        client = self._clients[url]
        try:
            info = await client.describe()
            known = self._choice.residency.version(info.engine_id, info.epoch)
            places = await client.places(since=known, limit=_MAX_ADAPTERS)
            load = await client.load()
        except MintError as error:
            if is_away(error):
                self._forget(url)
            return  # else of a version that does not say: it is routed to without
        self._known.learn(url, info)
        self._lost.pop(url, None)
        self._choice.report(url, load)
        self._choice.residency.follow(info.engine_id, info.epoch, places)
