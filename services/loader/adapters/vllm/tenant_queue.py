"""Waiting sequences in vLLM's scheduler, and the compilation of structures: tenants in turn.

Interactive sequences start before background ones, in the order of a `FairQueue` of their own each.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from itertools import chain
from typing import Any

from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request, RequestStatus

from mint_common.fair_queue import PROMPT_WEIGHT, FairQueue
from mint_common.runtime.low_priority import NICENESS, let_thread_give_way
from services.loader.core.background import BACKGROUND, background_reserve

TenantKind = tuple[str, bool]
"""A tenant, and whether sequences of it are background ones."""


class TenantQueue(RequestQueue):  # type: ignore[misc]  # vllm has no types
    """Two `FairQueue` with vLLM's interface. It is false while no sequence may start, even if some wait.

    Invariants: both share the seats, and background sequences take at most half of the reserve; a sequence
    whose structure is being compiled is not in the queue, so it holds no seat and costs no step anything.
    """

    def __init__(self, *, seats: int, reserve: int) -> None:
        self.seats = seats
        self.interactive: FairQueue[Request] = FairQueue(seats=seats, reserve=reserve)
        self.background: FairQueue[Request] = FairQueue(seats=seats, reserve=background_reserve(reserve))
        self.newcomer: TenantKind | None = None
        """The only tenant and kind that may start a sequence in this step, if set."""
        self.sitting_out: frozenset[str] = frozenset()
        """The tenants that may not start in this step."""
        self.left_out: FairQueue[Request] | None = None
        """The kind of sequences that this step leaves out, if any."""
        self._compiling: dict[str, Request] = {}

    def add_request(self, request: Request) -> None:
        """Let a request wait."""
        if request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR:
            self._compiling[request.request_id] = request
        else:
            self.of(request).push(tenant_of(request), request)

    def take_compiled(self) -> list[Request]:
        """Let those wait for a seat whose structures are compiled, or cannot be; return them."""
        found = [each for each in self._compiling.values() if each.structured_output_request.is_grammar_ready]
        for request in found:
            del self._compiling[request.request_id]
            self.of(request).push(tenant_of(request), request)
        return found

    def pop_request(self) -> Request:
        """Start the next one."""
        request = self.peek_request()
        self.of(request).start(tenant_of(request))
        self._share_seats()
        self.of(request).charge(tenant_of(request), _prompt_cost(request))
        return request

    def peek_request(self) -> Request:
        """Return the next one."""
        found = self.next()
        assert found is not None, "vLLM asks whether the queue is true first"
        return found

    def prepend_request(self, request: Request) -> None:
        """Let one wait that ran, or that was started and is skipped."""
        self.of(request).push_first(tenant_of(request), request)
        self._share_seats()
        self.of(request).charge(tenant_of(request), -_prompt_cost(request))

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        """Let those wait that were skipped, the first at last."""
        for request in requests:
            self.prepend_request(request)

    def remove_request(self, request: Request) -> None:
        """Forget one."""
        self.remove_requests([request])

    def remove_requests(self, requests: Iterable[Request]) -> None:
        """Forget some."""
        waiting = [each for each in requests if self._compiling.pop(each.request_id, None) is None]
        self.interactive.remove(waiting)
        self.background.remove(waiting)

    def __bool__(self) -> bool:
        """Return whether somebody may start."""
        found = self.next()
        return found is not None and self.newcomer in {None, tenant_kind(found)}

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self.interactive) + len(self.background) + len(self._compiling)

    def __iter__(self) -> Iterator[Request]:
        """Yield all that wait."""
        return chain(self.interactive, self.background, self._compiling.values())

    @property
    def active(self) -> frozenset[TenantKind]:
        """Return the tenants that wait or have a seat, with the kinds of their sequences."""
        return frozenset(
            (tenant, queue is self.background)
            for queue in (self.interactive, self.background)
            for tenant in queue.tenants
        )

    def of(self, request: Request) -> FairQueue[Request]:
        """Return the queue of a request's kind."""
        return self.background if is_background(request) else self.interactive

    def next(self) -> Request | None:
        """Return the sequence that starts next."""
        for queue in (self.interactive, self.background):
            found = None if queue is self.left_out else queue.next(without=self.sitting_out)
            if found is not None:
                return found[1]
        return None

    def set_running(self, running: Collection[Request]) -> None:
        """Count the seats of each tenant and kind."""
        for queue in (self.interactive, self.background):
            queue.set_running(Counter(tenant_of(each) for each in running if self.of(each) is queue))
        self._share_seats()

    def _share_seats(self) -> None:
        self.interactive.seats = self.seats - self.background.seated
        self.background.seats = self.seats - self.interactive.seated


class CompileTurns:
    """A stand-in for vLLM's executor that compiles structures: by tenant, not in order of arrival.

    Its threads yield to the engine's steps: 128 sequences of a grammar of 8 KiB take seconds to begin.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._lock = threading.Lock()
        self._queue: FairQueue[Callable[[], None]] = FairQueue(seats=_MAX_THREADS)

    def submit(self, compile_structure: Callable[[Request], Any], request: Request) -> Future[Any]:
        """Compile a request's structure when its tenant's turn comes. Any: a grammar of vLLM's."""
        compiled: Future[Any] = Future()
        with self._lock:
            self._queue.push(tenant_of(request), partial(_compile, compiled, compile_structure, request))
        self._executor.submit(self._run_next)
        return compiled

    def shutdown(self, *, wait: bool = True, cancel_futures: bool = False) -> None:
        """Compile nothing more."""
        self._executor.shutdown(wait=wait, cancel_futures=cancel_futures)

    def _run_next(self) -> None:
        with self._lock:
            found = self._queue.next()
            assert found is not None, "as many are submitted as wait"
            tenant, work = found
            self._queue.start(tenant)
        let_thread_give_way(NICENESS)
        began = time.thread_time()
        work()
        with self._lock:
            self._queue.charge(tenant, 1 + round(_WEIGHT_A_SECOND * (time.thread_time() - began)))
            self._queue.end(tenant)


_MAX_THREADS = 1 << 20
"""Thread count larger than any executor's: it limits how many structures compile at once."""
_WEIGHT_A_SECOND = 1e6


def _compile(compiled: Future[Any], compile_structure: Callable[[Request], Any], request: Request) -> None:
    try:
        compiled.set_result(compile_structure(request))
    except Exception as error:  # noqa: BLE001  # whoever asked raises it
        compiled.set_exception(error)


def tenant_of(request: Request) -> str:
    """Return whose a request is."""
    return request.cache_salt or ""


def is_background(request: Request) -> bool:
    """Return whether interactive requests have precedence over a request."""
    return bool(request.priority == BACKGROUND)


def tenant_kind(request: Request) -> TenantKind:
    """Return a request's tenant and kind."""
    return tenant_of(request), is_background(request)


def _prompt_cost(request: Request) -> int:
    """Return the cost of starting a request; one that was started before is free."""
    return 0 if request.status == RequestStatus.PREEMPTED else PROMPT_WEIGHT * request.num_prompt_tokens
