"""vLLM's scheduler with a waiting queue that is fair to tenants.

vLLM serves in order of arrival: one request of 128 completions holds all 64 seats until its longest one ends.
Here (docs/adr/0018-fair-shares.md)
- `FairQueue` chooses the next sequence;
- interactive sequences have precedence over background ones for seats, memory and, on a CPU, steps: a step
  has sequences of one kind, and `BackgroundShare` decides which;
- running sequences are ordered by their tenants' use of the KV cache, the largest last: vLLM assigns
  a step's tokens from the front, and preempts from the end;
- a newcomer gets KV cache from tenants above an even share, and its own first step;
- while several tenants are active, a step is short, and has fewer sequences when the loader is behind;
- the time for following structures is charged to their tenant like tokens, and limited in each step;
- no step begins while the loader has not received the outputs of several others.

A request's tenant is its ``cache_salt``; its ``priority`` tells whether it is a background one.

Written against vLLM 0.32; tests/integration/loader/test_fair_scheduler.py fails when what it uses changes.
"""

import os
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from mint_common.fair_queue import GENERATED_WEIGHT
from mint_common.runtime.processor_turns import shorten_thread_turns
from services.loader.adapters.vllm.closed_ports import close_ports
from services.loader.adapters.vllm.freed_memory import FreedMemory
from services.loader.adapters.vllm.output_acks import ACKS_VARIABLE, OutputWindow
from services.loader.adapters.vllm.structures import expected_seconds, share_time
from services.loader.adapters.vllm.tenant_queue import (
    CompileTurns,
    TenantKind,
    TenantQueue,
    is_background,
    tenant_kind,
    tenant_of,
)
from services.loader.adapters.vllm_plugin import RESERVED
from services.loader.core.background import BackgroundShare, background_to_preempt
from services.loader.core.kv_room import KvUse, largest_last, plan_room
from services.loader.core.step_size import next_sequences
from services.loader.core.structure_time import StructuredSequence, StructureTimes, leave_step

SHARED_PROMPT_TOKENS, SHARED_PROMPT_TOKENS_ON_GPU = 128, 2048
"""Maximum tokens of prompts in a step while several tenants are active: a newcomer waits for the step. On a
CPU, 512 of base tiny take 25 ms. A GPU needs more to be busy: 2,048 are a quarter of what an H100's step has,
some 50 ms of a base of 4B parameters (computed, not measured)."""
MIN_SEQUENCES = 4
"""A step has at least so many, however far the loader is behind."""
EMPTY_SECONDS = 0.01
"""Charge of a background step in which no sequence could run, for want of memory or a seat."""
ACTIVE_SECONDS = 10.0
"""A tenant counts as active this long after its last sequence."""
TOKENS_A_STRUCTURE_SECOND = 1000
"""Cost of one second of structure time, in generated tokens."""


def make_scheduler(**arguments: Any) -> Scheduler:
    """Return the scheduler of an engine; called like vLLM's classes. Any: its arguments, whatever they are.

    Other threads receive requests and send outputs, so thread turns are shortened first. vLLM makes its
    scheduler when its worker is complete.
    """
    shorten_thread_turns()
    if arguments["vllm_config"].parallel_config.distributed_executor_backend == "uni":
        close_ports()  # the worker is in this process, alone
    is_ahead = arguments["vllm_config"].scheduler_config.async_scheduling
    return FairAsyncScheduler(**arguments) if is_ahead else FairScheduler(**arguments)


class _Fair(Scheduler):  # type: ignore[misc]
    """The common part of both schedulers."""

    running: list[Request]
    max_num_scheduled_tokens: int

    def __init__(self, *args: Any, **options: Any) -> None:  # Any: vLLM's own
        super().__init__(*args, **options)
        reserve = int(self.vllm_config.additional_config[RESERVED])
        self.waiting: TenantQueue = TenantQueue(seats=self.max_num_running_reqs - reserve, reserve=reserve)
        self._step_tokens = self.max_num_scheduled_tokens
        self._seen_at: dict[TenantKind, float] = {}
        self._background = BackgroundShare()
        self._step_began = 0.0
        self._step_kinds: set[bool] = set()
        self._sent = OutputWindow(os.environ[ACKS_VARIABLE])
        self._was_own_step = False
        self._step_sequences = self.max_num_running_reqs
        self._structure_times = StructureTimes()
        self._freed_memory = FreedMemory(lambda: not self.requests)
        manager = self.structured_output_manager
        manager.executor = CompileTurns(manager.executor)

    def schedule(self, *args: Any, **options: Any) -> SchedulerOutput:
        """Plan a step when the outputs of earlier ones have been received."""
        is_behind = self._sent.wait()
        self._step_sequences = next_sequences(
            self._step_sequences, least=MIN_SEQUENCES, most=self.max_num_running_reqs, is_behind=is_behind
        )
        queue = self.waiting
        queue.set_running(self.running)
        now = time.monotonic()
        self._settle_structures(now)
        self._bound_step(queue.active, now=now)
        self._choose_kind(now)
        self._choose_sitting_out(now)
        if len(queue.active) > 1:
            self.running = [self.running[at] for at in largest_last(_held(self.running))]
            self._preempt_background()
        is_own_step = self._admit_newcomer()
        aside = [each for each in self.running if is_own_step or queue.of(each) is queue.left_out]
        aside = [*self._leave(aside), *self._bound_structures(), *self._bound_sequences()]
        step = super().schedule(*args, **options)
        self.running = [*aside, *self.running]
        queue.newcomer = None
        self._step_began, self._step_kinds = time.monotonic(), set[bool]()
        for request_id in step.num_scheduled_tokens:
            request = self.requests[request_id]
            self._step_kinds.add(is_background(request))
            if not request.is_prefill_chunk:
                queue.of(request).charge(tenant_of(request), GENERATED_WEIGHT)
        return step

    def update_from_output(self, *args: Any, **options: Any) -> dict[int, Any]:
        """Return a step's outputs by who takes them."""
        now = time.monotonic()
        # vLLM pauses after an empty step. Uncharged, the next one would be empty again, and so on.
        is_empty = not self._step_kinds and self.waiting.left_out is self.waiting.interactive
        if not self.scheduler_config.async_scheduling:
            self._background.end_step(
                max(now - self._step_began, EMPTY_SECONDS if is_empty else 0.0),
                has_interactive=False in self._step_kinds,
                has_background=is_empty or True in self._step_kinds,
                now=now,
            )
        outputs: dict[int, Any] = super().update_from_output(*args, **options)
        for sent in outputs.values():
            if sent.outputs:
                self._sent.note(sent.timestamp)
        self._freed_memory.note_step(now)
        return outputs

    def _choose_kind(self, now: float) -> None:
        """Leave one kind of sequences out of the step, while there are both or interactive ones are expected.

        Steps that are planned ahead have both.
        """
        queue = self.waiting
        queue.left_out = None
        if self.scheduler_config.async_scheduling:
            return
        has_interactive = bool(queue.interactive.tenants)
        sits_out = self._background.sits_out(has_interactive=has_interactive, now=now)
        if queue.background.tenants:
            if sits_out:
                queue.left_out = queue.background
            elif has_interactive:
                queue.left_out = queue.interactive

    def _bound_step(self, active: Iterable[TenantKind], *, now: float) -> None:
        self._seen_at |= dict.fromkeys(active, now)
        self._seen_at = {each: at for each, at in self._seen_at.items() if now - at < ACTIVE_SECONDS}
        is_on_gpu = self.vllm_config.device_config.device_type == "cuda"
        prompts = SHARED_PROMPT_TOKENS_ON_GPU if is_on_gpu else SHARED_PROMPT_TOKENS
        shared = min(self._step_tokens, len(self.running) + prompts)
        self.max_num_scheduled_tokens = shared if len(self._seen_at) > 1 else self._step_tokens

    def _preempt_background(self) -> None:
        """Make room for interactive sequences: seats for those that wait, memory for those that run."""
        queue = self.waiting
        if not queue.background.seated:
            return
        count = background_to_preempt(
            waiting=len(queue.interactive),
            free=queue.interactive.seats - queue.interactive.seated,
            background=queue.background.seated,
            reserve=queue.background.reserve,
        )
        self._preempt(self.running[len(self.running) - count :])
        if queue.left_out is not queue.interactive:
            # In their own steps background sequences would take the room back.
            tokens = sum(self._next_tokens(each) for each in self.running if not is_background(each))
            held = sum(each.num_computed_tokens for each in self.running if is_background(each))
            needed = KvUse(tenant="", tokens=min(tokens, self._free_tokens + held))
            self._make_room(needed, share_tokens=0)

    @property
    def _free_tokens(self) -> int:
        """Return the tokens that the free blocks of the KV cache hold."""
        return int(self.kv_cache_manager.block_pool.get_num_free_blocks() * self.block_size)

    def _next_tokens(self, request: Request) -> int:
        """Return the tokens of the blocks that a running sequence may need in this step."""
        needs_block = request.is_prefill_chunk or request.num_computed_tokens % self.block_size == 0
        return int(self.block_size) if needs_block else 0

    def _admit_newcomer(self) -> bool:
        """Make room for the next sequence, if its tenant runs little; return whether the step is its own.

        Only who was served least has a step of its own, and never two in turn, so that the others go on.
        Steps that are planned ahead are not given away: the device would idle.
        """
        was_own_step, self._was_own_step = self._was_own_step, False
        queue = self.waiting
        found = queue.next() if len(queue.active) > 1 else None
        if found is None:
            return False
        fair, tenant = queue.of(found), tenant_of(found)
        if fair.running(tenant) * len(fair.tenants) >= queue.seats:
            return False
        needed = _use_of(found, found.num_tokens + self.block_size)
        all_tokens = self.kv_cache_manager.block_pool.num_gpu_blocks * self.block_size
        if self._make_room(needed, share_tokens=all_tokens // len(fair.tenants)):
            queue.newcomer = tenant_kind(found)  # no other tenant or kind may take this room in the same step
        is_first = len(fair.tenants) > 1 and fair.is_least_served(tenant)
        if was_own_step or self.scheduler_config.async_scheduling or not is_first:
            return False
        queue.newcomer = tenant_kind(found)
        self._was_own_step = True
        return True

    def _settle_structures(self, now: float) -> None:
        """Charge what following structures took since the last step; let those start that are compiled."""
        for tenant, seconds in self._structure_times.settle(now=now):
            cost = round(GENERATED_WEIGHT * TOKENS_A_STRUCTURE_SECOND * seconds)
            self.waiting.interactive.charge(tenant, cost)
        for request in self.waiting.take_compiled():
            grammar = request.structured_output_request.grammar
            self._freed_memory.note_structure()
            if not isinstance(grammar, Exception):
                call = _call_of(request.request_id)
                share_time(grammar, self._structure_times.of_request(tenant_of(request), call, now=now))

    def _choose_sitting_out(self, now: float) -> None:
        """Leave out whose structures have taken more than their share, while a step has other work."""
        queue = self.waiting
        spent = self._structure_times.spent(now) if self._bounds_steps() else frozenset()
        queue.sitting_out = spent
        others_run = any(
            tenant_of(each) not in spent or not each.use_structured_output
            for each in self.running
            if queue.of(each) is not queue.left_out
        )
        if spent and not others_run and queue.next() is None:
            queue.sitting_out = frozenset()

    def _bounds_steps(self) -> bool:
        """Return whether steps are limited: while several tenants are active."""
        return len(self._seen_at) > 1

    def _bound_structures(self) -> list[Request]:
        """Limit a tenant's structures in the step while others are active; return who leaves it."""
        if not self._bounds_steps() or not any(each.use_structured_output for each in self.running):
            return []
        leaving = leave_step(
            [
                StructuredSequence(
                    tenant=tenant_of(each),
                    expected_seconds=expected_seconds(each.structured_output_request.grammar)
                    if each.use_structured_output
                    else None,
                )
                for each in self.running
            ],
            sitting_out=self.waiting.sitting_out,
        )
        return self._leave([self.running[at] for at in leaving])

    def _bound_sequences(self) -> list[Request]:
        """Limit the sequences to those that the loader can receive, while others are active; return those
        left out.

        They are first in the next step.
        """
        if not self._bounds_steps():
            return []
        return self._leave(self.running[self._step_sequences :])

    def _leave(self, leaving: Sequence[Request]) -> list[Request]:
        """Have running sequences leave a step; return them."""
        gone = frozenset(each.request_id for each in leaving)
        self.running = [each for each in self.running if each.request_id not in gone]
        return [*leaving]

    def _make_room(self, newcomer: KvUse, *, share_tokens: int) -> bool:
        """Preempt running sequences for a newcomer; return whether there were any."""
        victims = plan_room(
            _held(self.running), newcomer, free_tokens=self._free_tokens, share_tokens=share_tokens
        )
        self._preempt([self.running[at] for at in victims])
        return bool(victims)

    def _preempt(self, victims: Iterable[Request]) -> None:
        for victim in victims:
            self.running.remove(victim)
            self._preempt_request(victim, time.monotonic(), drop_stale_output=self.requires_kv_delivery)


class FairScheduler(_Fair):
    """Plans a step when the last one is done."""


class FairAsyncScheduler(_Fair, AsyncScheduler):  # type: ignore[misc]
    """Plans a step while the last one runs."""


def _held(running: Iterable[Request]) -> list[KvUse]:
    return [_use_of(each, each.num_computed_tokens) for each in running]


def _use_of(request: Request, tokens: int) -> KvUse:
    return KvUse(tenant=tenant_of(request), tokens=tokens, is_background=is_background(request))


_CALL = re.compile(r"(?:\d+_)?(.+?)(?:-\d+)?(?:-[0-9a-f]{8})?")
"""The id of a sequence: which of a prompt's, the call's own, which of its prompts, what vLLM adds."""


def _call_of(request_id: str) -> str:
    """Return the part of the id that all sequences of a client's request share."""
    found = _CALL.fullmatch(request_id)
    return found[1] if found else request_id
