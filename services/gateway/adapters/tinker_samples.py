"""Samples in the gateway's memory: queued, run on the engines, and retained for a while.

Invariants: a submission is answered before its sample runs; the same submission is the same sample; each
key's memory is bounded. Samples that end with the process are unknown afterwards, and clients submit them
again.
"""

import asyncio
import contextvars
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import repeat

from mint_common.client.directory import EngineDirectory
from mint_common.errors import (
    EngineDied,
    MintError,
    Overloaded,
    PeerFailed,
    RequestHeldBack,
    Unavailable,
    trace_of,
)
from mint_common.generation import EngineInfo, Likeliest, Sampled
from mint_common.ids import BaseName, TenantId
from mint_common.runtime.clock import Clock
from mint_common.tenant_budget import TenantBudget
from services.gateway.core.tinker.futures import (
    PROTOBUF,
    FutureDone,
    FutureFailed,
    FutureGone,
    FuturePending,
    FutureState,
)
from services.gateway.core.tinker.sample_queue import RetainedAnswers, SampleBudgets, SampleQueue
from services.gateway.core.tinker.samples import (
    SampleConflict,
    SampleOrder,
    describe_failure,
    describe_wait,
)
from services.gateway.core.tinker.sampling_answer import sample_json, sample_protobuf

AT_ONCE = 512
"""Seats for samples on the engines of one base: enough to keep them busy, too few for them to refuse."""
LOOK_SECONDS = 2.0
"""Time that a poll waits before it reports what the sample waits for."""
ABANDONED_SECONDS = 120.0
CONTENDED_SECONDS = 40.0
"""Time without a poll after which a sample is abandoned, alone and while other tenants have samples. The
SDK polls all the time, and repeats a poll that fails within 30 s."""
KEPT_SECONDS = 300.0
KEPT_BYTES = 256 << 20
"""Retention of answers for repeated polls, and their maximum size in all."""
LARGE_BYTES = 1 << 20
"""Answers of this size are encoded as JSON in a thread: it takes 10 ms per MiB."""
PRUNE_SECONDS = 5.0
AGAIN_SECONDS = 0.25
AWAY_SECONDS = 120.0
"""Time that an engine may be away before its samples fail."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class _Sample:
    order: SampleOrder
    polled_at: float
    pollers: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    result: Sampled | FutureFailed | None = None
    task: asyncio.Task[None] | None = None
    trouble: str = ""
    finished_at: float = 0.0

    @property
    def size_bytes(self) -> int:
        """Return the approximate size of its answer."""
        if not isinstance(self.result, Sampled):
            return 1000
        own = self.result.prompt_logprobs or b""
        parts = [part for each in self.result.sequences for part in (each.tokens, each.logprobs)]
        tables = [self.result.prompt_likeliest, *(each.likeliest for each in self.result.sequences)]
        return 1000 + len(own) + sum(map(len, parts)) + sum(map(_table_bytes, tables))


class EngineSamples:
    """Samples from order to answer, in the memory of this process; `run` executes them."""

    def __init__(
        self,
        engines: EngineDirectory,
        clock: Clock,
        *,
        of_keys: SampleBudgets,
        of_tenants: SampleBudgets,
        kept_bytes: int = KEPT_BYTES,
        tag: str = "",
    ) -> None:
        """``tag`` names this process in the ids that it gives: another gateway passes polls on to it."""
        self._engines = engines
        self._clock = clock
        self._suffix = f".{tag}" if tag else ""
        self._of_keys = of_keys
        self._of_tenants = of_tenants
        self._samples: dict[str, _Sample] = {}
        self._kept = RetainedAnswers(kept_bytes)
        self._queues: dict[BaseName, SampleQueue] = {}
        self._described: dict[BaseName, EngineInfo] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def describe(self, base: BaseName) -> EngineInfo:
        """Return the description of an engine of a base, cached while it is down. Raises Unavailable."""
        try:
            self._described[base] = await self._engines.describe(base)
        except Unavailable:
            if base not in self._described:
                raise
        return self._described[base]

    def submit(self, order: SampleOrder) -> str:
        """Queue a sample and return its request id; a repeated order is the same sample.

        Raises Overloaded when the key has too much queued, SampleConflict when another sample has the number.
        """
        request_id = order.request_id
        known = self._samples.get(request_id)
        if known is not None:
            if known.order.plan != order.plan:
                plan = order.plan
                raise SampleConflict(seq_id=plan.seq_id, sampling_session_id=plan.sampling_session_id)
            return request_id + self._suffix
        self._count_in(order)
        self._samples[request_id] = _Sample(order=order, polled_at=self._clock.monotonic())
        self._queue(order.base).push(order.tenant_id, order.key, request_id, order.seats)
        self._start(order.base)
        return request_id + self._suffix

    async def outcome(
        self, request_id: str, tenant_id: TenantId, *, wait_seconds: float, as_protobuf: bool
    ) -> FutureState:
        """Return a sample's answer, FuturePending if it takes longer than the wait. Repeatable.

        Raises FutureGone for a sample that is unknown, expired or another tenant's.
        """
        sample = self._samples.get(request_id.partition(".")[0])
        if sample is None or sample.order.tenant_id != tenant_id:
            raise FutureGone(request_id=request_id[:100])
        sample.pollers += 1
        try:
            pending = await self._wait(sample, wait_seconds)
        finally:
            sample.pollers -= 1
            sample.polled_at = self._clock.monotonic()
        if pending is not None or as_protobuf or sample.size_bytes < LARGE_BYTES:
            return pending or _tell(sample, as_protobuf=as_protobuf)
        return await asyncio.to_thread(_tell, sample, as_protobuf=False)

    async def run(self) -> None:
        """Run samples until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                for base in self._queues:
                    self._start(base)
                while True:
                    await self._clock.sleep(PRUNE_SECONDS)
                    self._prune()
            finally:
                self._tasks = None  # those that are cancelled now start no others

    async def _wait(self, sample: _Sample, seconds: float) -> FuturePending | None:
        """Return None once the sample has ended."""
        look = min(seconds, LOOK_SECONDS)
        if await _ends(sample.ended, look):
            return None
        pending = await self._describe(sample)
        # A cold adapter is reported at once.
        if pending.queue_state == "active" and await _ends(sample.ended, seconds - look):
            return None
        return None if sample.ended.is_set() else pending

    async def _describe(self, sample: _Sample) -> FuturePending:
        order = sample.order
        if sample.trouble:
            return FuturePending(queue_state="paused_capacity", reason=sample.trouble)
        if sample.task is None or order.revision is None:
            return FuturePending()
        try:
            client = await self._engines.find(order.base, digest=order.revision.digest)
            status = await client.adapter(order.revision.digest, tenant_id=order.tenant_id)
            return describe_wait(status)
        except MintError:
            return FuturePending()  # the sample itself reports the error

    def _queue(self, base: BaseName) -> SampleQueue:
        return self._queues.setdefault(base, SampleQueue(AT_ONCE))

    def _count_in(self, order: SampleOrder) -> None:
        for budget, holder, amount in self._amounts(order):
            budget.check(holder, amount)
        for budget, holder, amount in self._amounts(order):
            budget.take(holder, amount)

    def _count_out(self, order: SampleOrder) -> None:
        for budget, holder, amount in self._amounts(order):
            budget.take(holder, -amount)

    def _amounts(self, order: SampleOrder) -> Iterator[tuple[TenantBudget, str, int]]:
        amounts = (1, order.plan.sampling.n, order.prompt_bytes)
        yield from zip(self._of_keys, repeat(order.key), amounts)
        yield from zip(self._of_tenants, repeat(order.tenant_id), amounts)

    def _start(self, base: BaseName) -> None:
        """Start the samples that have room; none before `run`."""
        queue = self._queue(base)
        while self._tasks is not None and (request_id := queue.pop()) is not None:
            sample = self._samples[request_id]
            # The end of another request starts this one, which has its own trace.
            sample.task = self._tasks.create_task(self._serve(request_id, sample), context=sample.context)

    async def _serve(self, request_id: str, sample: _Sample) -> None:
        order = sample.order
        try:
            sample.result = await self._sample(sample)
        except MintError as error:
            sample.result = describe_failure(error)
        except Exception as error:  # noqa: BLE001  (as in dispatch)
            # A bug in one sample must not stop the others.
            _log.error("a sample failed", extra={"sample": request_id, "error": trace_of(error)})
            sample.result = FutureFailed(message="the server failed on this sample", category="server")
        finally:
            self._count_out(order)
            self._queue(order.base).finish(order.tenant_id, order.key, order.seats)
            self._start(order.base)
        sample.finished_at = self._clock.monotonic()
        self._kept.add(order.tenant_id, request_id, sample.size_bytes)
        sample.ended.set()
        while (too_many := self._kept.too_many()) is not None:
            self._drop(too_many, self._samples[too_many])

    async def _sample(self, sample: _Sample) -> Sampled:
        """Sample, with retries while the engine is full or restarts: a seeded sample repeats exactly.

        Raises RequestEndsEngines for one that ends engines.
        """
        request = sample.order.to_request()
        give_up_at = self._clock.monotonic() + AWAY_SECONDS
        while True:
            try:
                sampled = await self._engines.sample(sample.order.base, request)
            except PeerFailed:
                raise
            except (Overloaded, Unavailable, EngineDied) as error:
                sample.trouble = _trouble(error)
                now = self._clock.monotonic()
                if isinstance(error, Overloaded | RequestHeldBack | EngineDied):
                    give_up_at = now + AWAY_SECONDS
                elif now >= give_up_at:
                    raise
            else:
                wished = request.revision.digest if request.revision else None
                assert sampled.revision == wished, "the engine answered with another revision"
                return sampled
            await self._clock.sleep(AGAIN_SECONDS * (0.5 + random.random()))

    def _prune(self) -> None:
        now = self._clock.monotonic()
        for request_id, sample in list(self._samples.items()):
            if sample.ended.is_set():
                is_over = now - sample.finished_at >= KEPT_SECONDS
            else:
                is_over = not sample.pollers and now - sample.polled_at >= self._idle_limit(sample.order)
            if is_over:
                self._drop(request_id, sample)

    def _idle_limit(self, order: SampleOrder) -> float:
        """Return the time without a poll after which a sample is abandoned."""
        is_alone = self._queue(order.base).tenants <= {order.tenant_id}
        return ABANDONED_SECONDS if is_alone else CONTENDED_SECONDS

    def _drop(self, request_id: str, sample: _Sample) -> None:
        order = sample.order
        del self._samples[request_id]
        self._kept.forget(order.tenant_id, request_id)
        if self._queue(order.base).remove(order.tenant_id, order.key, request_id, order.seats):
            self._count_out(order)
        elif sample.task is not None:
            sample.task.cancel()
        sample.ended.set()


async def _ends(ended: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await ended.wait()
    except TimeoutError:
        return False
    return True


def _trouble(error: MintError) -> str:
    """Return what a sample waits for."""
    if isinstance(error, Overloaded):
        return "the engine is full; the sample waits for a seat"
    if isinstance(error, RequestHeldBack):
        return str(error)
    return "the engine does not answer; it may be restarting"


def _table_bytes(table: Likeliest | None) -> int:
    return 0 if table is None else len(table.tokens) + len(table.logprobs)


def _tell(sample: _Sample, *, as_protobuf: bool) -> FutureState:
    result = sample.result
    if result is None:
        raise FutureGone(request_id=sample.order.request_id)
    if isinstance(result, FutureFailed):
        return result
    if as_protobuf:
        return FutureDone(body=sample_protobuf(result, sample.order.plan), media_type=PROTOBUF)
    return FutureDone(body=sample_json(result, sample.order.plan))
