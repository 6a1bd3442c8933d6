"""One generation request from its check to its last token.

Invariants: a request is checked completely before the engine sees it; its adapter is held until its answer
ends, however it ends; the head of an answer names what really answers; a revision whose output was not
finite is asked no more until somebody puts it into use again.
"""

import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractContextManager, ExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial

from mint_common.api_errors import error_event
from mint_common.errors import EngineDied, MintError, NonFiniteOutput, Overloaded
from mint_common.generation import (
    CacheUse,
    Sampled,
    SampleRequest,
    Sampling,
)
from mint_common.ids import Digest, EngineId, TenantId
from mint_common.telemetry import tracing
from services.loader import metrics
from services.loader.core.open_work import OpenWork
from services.loader.core.requests import (
    Limits,
    check_characters,
    check_n,
    check_revision,
    check_sample,
)
from services.loader.handlers.quarantining import Quarantined
from services.loader.handlers.tiers import Tiers
from services.loader.ports import AnswerHead, ApiCall, ApiWork, Engine, LoadedAdapter

_TOKEN_BYTES = 4


class Serving:
    """Generates from the engine."""

    def __init__(
        self,
        *,
        engine: Engine,
        tiers: Tiers,
        quarantined: Quarantined,
        limits: Limits,
        engine_id: EngineId,
        dtype: str,
        work: OpenWork,
    ) -> None:
        """``dtype`` is the engine's compute dtype."""
        self._engine = engine
        self._tiers = tiers
        self._quarantined = quarantined
        self._limits = limits
        self._engine_id = engine_id
        self._dtype = dtype
        self._requests = itertools.count(1)
        self._work = work

    @property
    def open_requests(self) -> int:
        """Return how many requests are open, waiting ones included."""
        return self._work.requests

    @property
    def open_tokens(self) -> int:
        """Return how many tokens the open requests may come to, prompts included."""
        return self._work.tokens

    @property
    def cache_use(self) -> CacheUse | None:
        """Return the use of the engine's KV cache: nothing while nothing is open, as no step follows then."""
        use = self._engine.cache_use
        if use is None or self._work.requests:
            return use
        return replace(use, share=0.0, running=0, waiting=0)

    async def serve(self, call: ApiCall) -> AsyncGenerator[AnswerHead | bytes, None]:
        """Yield the head of an answer, then its bytes; a failure after the head as an event of its API.

        Raises EngineDied at any time: nothing that a model may say looks like it. Raises before the head:
        InvalidField, Overloaded, NonFiniteOutput of a revision that had none before, or why the adapter can't
        be loaded. Closing the iterator aborts the request.
        """
        with self._counted(call):
            if call.revision is not None:
                check_revision(call.revision)
            async with aclosing(self._serve(call)) as parts:
                async for part in parts:
                    yield part

    def tier(self, call: ApiCall) -> str:
        """Return where the adapter of a call is now."""
        return "base" if call.revision is None else self._tiers.tier(call.revision.digest)

    async def _serve(self, call: ApiCall) -> AsyncGenerator[AnswerHead | bytes, None]:
        has_begun = False
        began, tier = time.perf_counter(), self.tier(call)
        is_warm = tier in {"base", "slot"}
        try:
            with self._watched(call), ExitStack() as waiting:
                admission = partial(self._admission, call, waiting, is_warm=is_warm)
                async with aclosing(self._engine.serve(call, admission=admission)) as parts:
                    async for part in parts:
                        waiting.close()
                        if isinstance(part, AnswerHead) and part.is_stream:
                            metrics.FIRST_TOKEN_SECONDS.labels(tier).observe(time.perf_counter() - began)
                        yield part
                        has_begun = True
        except MintError as error:
            if not has_begun or isinstance(error, EngineDied):
                raise
            yield error_event(call.operation, error)

    @asynccontextmanager
    async def _admission(
        self, call: ApiCall, waiting: ExitStack, work: ApiWork, *, is_warm: bool
    ) -> AsyncIterator[LoadedAdapter | None]:
        """Count a call's maximum work, and hold its adapter; then it waits for its first token."""
        check_n(work.n, self._limits)
        async with self._admitted(call, sequences=work.sequences, tokens=work.tokens) as adapter:
            with self._tiers.generating(), self._tiers.first_token(warm=is_warm) as came:
                waiting.callback(came)
                yield adapter

    async def sample(self, request: SampleRequest) -> Sampled:
        """Return whole completions. Cancelling aborts the request.

        Raises InvalidField, Overloaded, Unavailable, NonFiniteOutput, or why the adapter can't be loaded.
        """
        with self._counted(request):
            check_sample(request, self._limits)
            request_id = self._request_id(request.request_id)
            n = request.sampling.n
            tokens = n * (len(request.tokens) + request.sampling.max_new_tokens)
            async with self._admitted(request, sequences=n, tokens=tokens) as adapter:
                with self._watched(request), self._tiers.generating():
                    sample = await self._engine.sample(request, request_id=request_id, adapter=adapter)
            metrics.TOKENS.labels(kind="prompt").inc(len(request.tokens))
            generated = sum(len(each.tokens) for each in sample.sequences) // _TOKEN_BYTES
            metrics.TOKENS.labels(kind="generated").inc(generated)
        return Sampled(
            engine_id=self._engine_id,
            revision=sample.served,
            sequences=sample.sequences,
            prompt_logprobs=sample.prompt_logprobs,
            prompt_likeliest=sample.prompt_likeliest,
            dtype=self._dtype,
        )

    async def tokenize(self, text: str, *, tenant_id: TenantId | None) -> tuple[int, ...]:
        """Return the token ids of a text. Raises InvalidField when it is too long to fit."""
        check_characters(len(text), field="text", max_context=self._limits.max_context)
        return await self._engine.tokenize(text, tenant_id=tenant_id)

    @contextmanager
    def _counted(self, request: SampleRequest | ApiCall) -> Iterator[None]:
        """Count a request from its coming to its end. Raises Overloaded when its tenant has too many."""
        outcome = "aborted"
        try:
            with _entered(self._work.request(request.tenant_id)), metrics.REQUESTS_OPEN.track_inprogress():
                yield
            outcome = "finished"
        except MintError as error:
            outcome = error.code
            raise
        finally:
            metrics.REQUESTS.labels(outcome=outcome).inc()

    @asynccontextmanager
    async def _admitted(
        self, request: SampleRequest | ApiCall, *, sequences: int, tokens: int
    ) -> AsyncIterator[LoadedAdapter | None]:
        """Count a request's maximum work, and hold its adapter. Raises Overloaded, InvalidField."""
        with _entered(self._work.work(request.tenant_id, sequences=sequences, tokens=tokens)):
            async with self._adapter(request) as adapter:
                yield adapter

    def _request_id(self, wished: str) -> str:
        """Return a unique id, also for two callers that chose the same."""
        return f"{wished}-{next(self._requests)}"

    @asynccontextmanager
    async def _adapter(self, request: SampleRequest | ApiCall) -> AsyncIterator[LoadedAdapter | None]:
        if request.revision is None:
            yield None
            return
        self._quarantined.check(request.revision.digest)
        with tracing.span("acquire adapter", attributes={"digest": request.revision.digest}):
            hold = self._tiers.hold(request.revision, tenant_id=request.tenant_id, cause=request.request_id)
            adapter = await hold.__aenter__()
        try:
            self._quarantined.check(request.revision.digest)  # others may have found out meanwhile
            yield adapter
        finally:
            await hold.__aexit__(None, None, None)

    @contextmanager
    def _watched(self, request: SampleRequest | ApiCall) -> Iterator[None]:
        """Note that the engine ends a request for having no finite output."""
        try:
            yield
        except NonFiniteOutput as error:
            digest = Digest(str(error.digest))
            if request.revision is not None and digest == request.revision.digest:
                self._quarantined.note(digest, tenant_id=request.tenant_id, cause=request.request_id)
            raise


@contextmanager
def _entered(counted: AbstractContextManager[None]) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(counted)
        except Overloaded:
            metrics.REFUSALS.inc()
            raise
        yield


async def warm_up(engine: Engine) -> None:
    """Generate one token at the base: the first request of an engine costs seconds more than the next."""
    request = SampleRequest(
        request_id="warm-up",
        tenant_id=TenantId("warm-up"),
        revision=None,
        tokens=(0,),
        sampling=Sampling(max_new_tokens=1, temperature=0.0, ignore_eos=True),
    )
    await engine.sample(request, request_id=request.request_id, adapter=None)
