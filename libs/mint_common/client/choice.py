"""Order of engines for a request: by resident adapters, cached prompt prefixes and open work."""

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mint_common.client.prefixes import READ_BYTES, Beginnings, EngineRun, PrefixMap, engine_of, run_of
from mint_common.client.routing import Nearness, Option, ResidencyMap, order_engines
from mint_common.client.serving import ServingEngines
from mint_common.generation import CacheUse, CallFacts, EngineInfo, EngineReport, SampleRequest
from mint_common.ids import BaseName, Digest, EngineId
from mint_common.inference.operations import ApiOperation
from mint_common.inference.prompts import prompt_of_body, prompt_of_tokens

_BYTES_PER_TOKEN = 4
MANY_ENGINES = 16
"""Number of engines of a base up to which all of them are compared for each request."""
SOME_HOLDERS, SOME_ENGINES = 4, 2
"""Engines compared where there are more: those that have the adapter; its homes, and as many others."""
T = TypeVar("T")


def _some(items: Sequence[T], count: int, turn: int) -> Sequence[T]:
    """Return at most ``count`` items, others for the next turn."""
    if len(items) <= count:
        return items
    begin = turn * count % len(items)
    return (*items[begin : begin + count], *items[: max(0, begin + count - len(items))])


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedRequest:
    """A request as the choice of its engine sees it; ``tokens`` are the most that it may come to."""

    digest: Digest | None = None
    beginnings: Beginnings | None = None
    tokens: int = 0


class EngineChoice:
    """Knows engines by their addresses. To what an engine reported it adds what this process opened since."""

    def __init__(self) -> None:
        self.residency = ResidencyMap()
        self._prefixes = PrefixMap(secret=secrets.token_bytes(16))
        self._open: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._reported: dict[str, tuple[EngineReport, int]] = {}
        self._turn = 0

    def of_call(
        self,
        base: BaseName,
        operation: ApiOperation,
        body: bytes,
        facts: CallFacts,
        *,
        tokens: int,
        is_choice: bool,
    ) -> RoutedRequest:
        """Return a request of an inference API; ``tokens`` are those that its answers may have.

        Its prompt is read only if there ``is_choice``: several engines serve the base.
        """
        digest = facts.revision.digest if facts.revision else None
        beginnings = None
        if is_choice and operation.generates:
            prompt = prompt_of_body(body)
            beginnings = self._prefixes.beginnings(facts.tenant_id, base, digest, prompt)
        return RoutedRequest(
            digest=digest, beginnings=beginnings, tokens=tokens + len(body) // _BYTES_PER_TOKEN
        )

    def of_sample(self, base: BaseName, request: SampleRequest, *, is_choice: bool) -> RoutedRequest:
        """Return a request for a sample; as `of_call`."""
        digest = request.revision.digest if request.revision else None
        tokens = request.sampling.n * (len(request.tokens) + request.sampling.max_new_tokens)
        beginnings = None
        if is_choice:
            prompt = prompt_of_tokens(request.tokens, max_bytes=READ_BYTES)
            beginnings = self._prefixes.beginnings(request.tenant_id, base, digest, prompt)
        return RoutedRequest(digest=digest, beginnings=beginnings, tokens=tokens)

    def order(self, engines: ServingEngines, request: RoutedRequest) -> list[str]:
        """Return the addresses of engines in the order in which to try them; of many, those worth trying."""
        known = self._prefixes.known_bytes(request.beginnings) if request.beginnings else {}
        held = self.residency.holders(request.digest) if request.digest else {}

        def option(url: str) -> Option:
            info = engines.infos[url]
            known_bytes = known.get(run_of(info), 0) if known else 0
            return self._option(url, info, held.get(info.engine_id, Nearness.ABSENT), known_bytes)

        if len(engines.urls) <= MANY_ENGINES:
            options = [option(url) for url in engines.urls]
        else:
            near = self._near(engines, held, known)
            options = [option(url) for url in near]
            if request.digest and not any(each.is_ready for each in options):
                homes = map(engines.url_of, engines.homes.first(request.digest, SOME_ENGINES))
                options += [option(url) for url in homes if url is not None and url not in near]
        return [each.name for each in order_engines(options, request.digest or "")]

    def _near(
        self, engines: ServingEngines, held: Mapping[EngineId, Nearness], known: Mapping[EngineRun, int]
    ) -> Sequence[str]:
        """Return engines that have the adapter or read the prompt, and `SOME_ENGINES` others.

        Successive calls return different ones of many holders, so that a hot adapter's requests are spread.
        """
        self._turn += 1
        engine_ids = [*map(engine_of, known), *_some(tuple(held), SOME_HOLDERS, self._turn)]
        urls = map(engines.url_of, engine_ids)
        others = _some(engines.urls, SOME_ENGINES, self._turn)
        return list(dict.fromkeys([*(url for url in urls if url is not None), *others]))

    def begin(self, url: str, request: RoutedRequest) -> None:
        """Count a request that is open on an engine."""
        self._open[url] += 1
        self._tokens[url] += request.tokens

    def end(self, url: str, request: RoutedRequest) -> None:
        """Count a request out."""
        self._open[url] -= 1
        self._tokens[url] -= request.tokens

    def note_served(self, info: EngineInfo, request: RoutedRequest, digest: Digest | None) -> None:
        """Record the prompt as read, and an adapter that answers as in a slot: its event may come later."""
        if digest is not None:
            self.residency.note(info.engine_id, info.epoch, digest, Nearness.SLOT)
        if request.beginnings is not None:
            self._prefixes.note(request.beginnings, run_of(info))

    def report(self, url: str, report: EngineReport) -> None:
        """Record how busy an engine says it is."""
        self._reported[url] = report, self._tokens[url]

    def cache_use(self, url: str) -> CacheUse | None:
        """Return the use of an engine's KV cache as it said last; None if it did not."""
        return self._reported[url][0].cache if url in self._reported else None

    def forget(self, url: str, info: EngineInfo | None) -> None:
        """Believe nothing of an engine: it has not answered."""
        self._reported.pop(url, None)
        if info is not None:
            self.residency.forget(info.engine_id)

    def _option(self, url: str, info: EngineInfo, nearness: Nearness, known_bytes: int) -> Option:
        requests, tokens, kv_share = self._open.get(url, 0), self._tokens.get(url, 0), 0.0
        if (reported := self._reported.get(url)) is not None:
            report, counted = reported  # with what others have open there; it was true a moment ago
            requests, tokens = max(requests, report.requests), max(0, report.tokens + tokens - counted)
            kv_share = report.cache.share if report.cache else 0.0
        return Option(
            name=url,
            engine_id=info.engine_id,
            nearness=nearness,
            load=requests,
            tokens=tokens,
            known_bytes=known_bytes,
            kv_share=kv_share,
        )
