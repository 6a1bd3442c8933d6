"""vLLM's scheduler, with a waiting queue that is fair to tenants.

vLLM serves who came first: one request of 128 completions holds all 64 seats until its longest one ends.
Here (docs/adr/0018-fair-shares.md)
- `FairQueue` says who starts next;
- running sequences stand in the order of what their tenants hold of the KV cache, the most last: vLLM hands
  out a step's tokens from the front, and takes memory back from the end;
- a newcomer gets room in the KV cache from who holds more than an even share, and a step of its own;
- while several tenants are about, a step is short, and has fewer sequences when the loader is behind;
- no step begins while the outputs of several others are still to be taken in.

A request's tenant is its ``cache_salt``.

Written against vLLM 0.32; tests/integration/loader/test_fair_scheduler.py fails when what it uses changes.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from mint_common.runtime.processor_turns import shorten_thread_turns
from services.loader.adapters.vllm.taken_outputs import SentOutputs
from services.loader.adapters.vllm_plugin import RESERVED, TAKEN
from services.loader.core.fair_queue import GENERATED_WEIGHT, PROMPT_WEIGHT, FairQueue
from services.loader.core.kv_room import KvUse, largest_last, plan_room
from services.loader.core.step_size import next_sequences

SHARED_PROMPT_TOKENS = 512
"""Most tokens of prompts in a step while several tenants are about: of base tiny 25 ms, and 75 for 2,048."""
LEAST_SEQUENCES = 4
"""A step has at least so many, however far the loader is behind."""
ABOUT_SECONDS = 10.0
"""How long a tenant is about after its last sequence."""


def make_scheduler(**arguments: Any) -> Scheduler:
    """Return the scheduler of an engine; as vLLM's classes. Any: its arguments, whatever they are.

    Threads beside the steps take requests in and send outputs: these would wait for them.
    """
    shorten_thread_turns()
    is_ahead = arguments["vllm_config"].scheduler_config.async_scheduling
    return FairAsyncScheduler(**arguments) if is_ahead else FairScheduler(**arguments)


class TenantQueue(RequestQueue):  # type: ignore[misc]  # vllm has no types
    """`FairQueue` as vLLM asks it. It is false while nobody may start, whoever waits."""

    def __init__(self, *, seats: int, reserve: int) -> None:
        self.fair: FairQueue[Request] = FairQueue(seats=seats, reserve=reserve)
        self.newcomer: str | None = None
        """Who alone may start in this step."""

    def add_request(self, request: Request) -> None:
        """Let a request wait."""
        self.fair.push(tenant_of(request), request)

    def pop_request(self) -> Request:
        """Start the next one."""
        tenant, request = self._next()
        self.fair.start(tenant)
        self.fair.charge(tenant, _prompt_cost(request))
        return request

    def peek_request(self) -> Request:
        """Return the next one."""
        return self._next()[1]

    def prepend_request(self, request: Request) -> None:
        """Let one wait that ran, or that was started and is skipped."""
        tenant = tenant_of(request)
        self.fair.push_first(tenant, request)
        self.fair.charge(tenant, -_prompt_cost(request))

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        """Let those wait that were skipped, the first at last."""
        for request in requests:
            self.prepend_request(request)

    def remove_request(self, request: Request) -> None:
        """Forget one."""
        self.fair.remove([request])

    def remove_requests(self, requests: Iterable[Request]) -> None:
        """Forget some."""
        self.fair.remove(list(requests))

    def __bool__(self) -> bool:
        """Return whether somebody may start."""
        found = self.fair.next()
        return found is not None and self.newcomer in {None, found[0]}

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self.fair)

    def __iter__(self) -> Iterator[Request]:
        """Yield all that wait."""
        return iter(self.fair)

    def _next(self) -> tuple[str, Request]:
        found = self.fair.next()
        assert found is not None, "vLLM asks whether the queue is true first"
        return found


class _Fair(Scheduler):  # type: ignore[misc]
    """What both schedulers do."""

    running: list[Request]
    max_num_scheduled_tokens: int

    def __init__(self, *args: Any, **options: Any) -> None:  # Any: vLLM's own
        super().__init__(*args, **options)
        reserve = int(self.vllm_config.additional_config[RESERVED])
        self.waiting: TenantQueue = TenantQueue(seats=self.max_num_running_reqs - reserve, reserve=reserve)
        self._step_tokens = self.max_num_scheduled_tokens
        self._seen_at: dict[str, float] = {}
        self._sent = SentOutputs(self.vllm_config.additional_config[TAKEN])
        self._was_own_step = False
        self._step_sequences = self.max_num_running_reqs

    def schedule(self, *args: Any, **options: Any) -> SchedulerOutput:
        """Plan a step, when the outputs of earlier ones are taken in."""
        is_behind = self._sent.wait()
        self._step_sequences = next_sequences(
            self._step_sequences, least=LEAST_SEQUENCES, most=self.max_num_running_reqs, is_behind=is_behind
        )
        fair = self.waiting.fair
        fair.set_running(Counter(map(tenant_of, self.running)))
        self._bound_step(fair.tenants, now=time.monotonic())
        aside: list[Request] = []
        was_own_step, self._was_own_step = self._was_own_step, False
        if len(fair.tenants) > 1:
            self.running = [self.running[at] for at in largest_last(_held(self.running))]
            aside = self._admit_newcomer(was_own_step=was_own_step)
        aside = aside or self._bound_sequences()
        step = super().schedule(*args, **options)
        self.running = [*aside, *self.running]
        self.waiting.newcomer = None
        for request_id in step.num_scheduled_tokens:
            request = self.requests[request_id]
            if not request.is_prefill_chunk:
                fair.charge(tenant_of(request), GENERATED_WEIGHT)
        return step

    def update_from_output(self, *args: Any, **options: Any) -> dict[int, Any]:
        """Return a step's outputs by who takes them."""
        outputs: dict[int, Any] = super().update_from_output(*args, **options)
        for sent in outputs.values():
            if sent.outputs:
                self._sent.note(sent.timestamp)
        return outputs

    def _bound_step(self, tenants: Iterable[str], *, now: float) -> None:
        self._seen_at |= dict.fromkeys(tenants, now)
        self._seen_at = {each: at for each, at in self._seen_at.items() if now - at < ABOUT_SECONDS}
        shared = min(self._step_tokens, self.max_num_running_reqs + SHARED_PROMPT_TOKENS)
        self.max_num_scheduled_tokens = shared if len(self._seen_at) > 1 else self._step_tokens

    def _admit_newcomer(self, *, was_own_step: bool) -> list[Request]:
        """Make room for who starts next, if its tenant runs little; return who leaves this step to it.

        Only who was served least has a step of its own, and never two in turn, so that the others go on.
        Steps that are planned ahead are not given away: the device would idle.
        """
        fair = self.waiting.fair
        found = fair.next()
        if found is None or fair.running(found[0]) * len(fair.tenants) >= fair.seats:
            return []
        self._make_room(*found)
        if was_own_step or self.scheduler_config.async_scheduling or not fair.is_least_served(found[0]):
            return []
        self.waiting.newcomer = found[0]
        self._was_own_step = True
        aside, self.running = self.running, []
        return aside

    def _bound_sequences(self) -> list[Request]:
        """Keep as many as the loader takes in, while others are about; return who leaves this step.

        They are the first of the next one. Steps that are planned ahead stay whole, as above.
        """
        if len(self._seen_at) < 2 or self.scheduler_config.async_scheduling:
            return []
        kept = self._step_sequences
        self.running, aside = self.running[:kept], self.running[kept:]
        return aside

    def _make_room(self, tenant: str, request: Request) -> None:
        pool = self.kv_cache_manager.block_pool
        victims = plan_room(
            _held(self.running),
            KvUse(tenant=tenant, tokens=request.num_tokens + self.block_size),
            free_tokens=pool.get_num_free_blocks() * self.block_size,
            all_tokens=pool.num_gpu_blocks * self.block_size,
            tenants=len(self.waiting.fair.tenants),
        )
        if not victims:
            return
        for victim in [self.running[at] for at in victims]:
            self.running.remove(victim)
            self._preempt_request(victim, time.monotonic(), drop_stale_output=self.requires_kv_delivery)
        self.waiting.newcomer = tenant  # who has just made room must not take it back in this step


class FairScheduler(_Fair):
    """Plans a step when the last one is done."""


class FairAsyncScheduler(_Fair, AsyncScheduler):  # type: ignore[misc]
    """Plans a step while the last one runs."""


def tenant_of(request: Request) -> str:
    """Return whose a request is."""
    return request.cache_salt or ""


def _held(running: Iterable[Request]) -> list[KvUse]:
    return [KvUse(tenant=tenant_of(each), tokens=each.num_computed_tokens) for each in running]


def _prompt_cost(request: Request) -> int:
    """Return what starting a request costs; what was started before is paid for."""
    return 0 if request.status == RequestStatus.PREEMPTED else PROMPT_WEIGHT * request.num_prompt_tokens
