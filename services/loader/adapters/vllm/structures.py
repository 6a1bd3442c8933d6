"""Follow structures of answers with xgrammar; a request ends when its structures take too long.

`core.structure_time` has the limits; a grammar whose request is unknown has its own allowance.

xgrammar has no limit of its own, and a single call of it may take minutes: to accept a long token where the
pattern is ``((a+)+)+``, nested 100 deep, or to find the tokens that may come next in the grammar of 60 rules
``r0 ::= r1 r1 | r1``, ``r1 ::= r2 r2 | r2``, and so on. No call can be stopped, but none holds Python's lock.
So a separate thread calls it, and the engine's thread waits within the answer's remaining processor time.
A thread whose call takes longer is abandoned at the lowest priority; its grammar is not used again.

A thread switch costs some 30 to 150 us. Schemas without patterns need none: delimiters separate
their values, and no call takes more than some 20 ms.
"""

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from services.loader.core.structure_time import SECONDS_A_TOKEN, RequestTime, TenantTime

MAX_ABANDONED = 4
"""Threads that were abandoned to calls of a tenant: at so many, a call of its patterns ends its answer."""
MAX_ABANDONED_IN_ALL = 100
"""At so many of all tenants, a tenant that has one may have no more; others go on."""

_IS_PLAIN = "_mint_is_plain"
_IS_LOST = "_mint_is_lost"
"""Whether a call that was abandoned still works on it."""
_TIME = "_mint_time"
_STEP_SECONDS = "_mint_step_seconds"
_REPORTS = {
    "vllm.v1.core.sched.scheduler": "Unexpected: grammar rejected tokens",
    "vllm.v1.structured_output": "Unexpected: grammar terminated or rejected draft",
    "vllm.v1.structured_output.backend_xgrammar": "Failed to advance FSM",
}
"""Prefixes of vLLM's log lines about what a grammar refuses, by logger. The lines contain tokens of the
answer."""


def bound_structures() -> None:
    """Have an answer refused its next token once its structure has taken too long. Idempotent."""
    from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend, XgrammarGrammar

    if XgrammarGrammar.accept_tokens.__module__ == __name__:
        return
    XgrammarBackend.compile_grammar = _compiling(XgrammarBackend.compile_grammar)
    XgrammarGrammar.accept_tokens = _accepting(XgrammarGrammar.accept_tokens)
    XgrammarGrammar.fill_bitmask = _filling(XgrammarGrammar.fill_bitmask)
    XgrammarGrammar.validate_tokens = _validating(XgrammarGrammar.validate_tokens)
    XgrammarGrammar.rollback = _rolling_back(XgrammarGrammar.rollback)
    for name, beginning in _REPORTS.items():
        logging.getLogger(name).addFilter(partial(_is_other, beginning))


def share_time(grammar: Any, time_of_request: RequestTime) -> None:
    """Have a grammar of vLLM's take its time from its request's."""
    setattr(grammar, _TIME, time_of_request)


def expected_seconds(grammar: Any) -> float:
    """Return the expected time of a grammar's step: as much as its last one."""
    return float(getattr(grammar, _STEP_SECONDS, SECONDS_A_TOKEN))


def _is_other(beginning: str, record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(beginning)


# Any: a grammar of vLLM and its methods; vllm has no types.
def _compiling(stock: Any) -> Any:
    def compile_grammar(
        backend: Any, request_type: Any, grammar_spec: str, *args: Any, **options: Any
    ) -> Any:
        grammar = stock(backend, request_type, grammar_spec, *args, **options)
        # A name may be written with escapes.
        has_patterns = '"pattern' in grammar_spec or "\\" in grammar_spec
        is_schema = request_type.name in {"JSON", "JSON_OBJECT"}
        setattr(grammar, _IS_PLAIN, is_schema and not has_patterns)
        return grammar

    return compile_grammar


def _accepting(stock: Any) -> Any:
    def accept_tokens(grammar: Any, request_id: str, tokens: list[int]) -> bool:
        try:
            is_accepted: bool = _bounded(grammar, stock, request_id, tokens)
        except TimeoutError:
            return False
        _time_of(grammar).earn(len(tokens))
        return is_accepted

    return accept_tokens


def _filling(stock: Any) -> Any:
    def fill_bitmask(grammar: Any, bitmask: Any, idx: int) -> None:
        # A call that its thread is abandoned to writes to this row, not to one that others have by then.
        row = bitmask[idx : idx + 1].clone()
        setattr(grammar, _STEP_SECONDS, 0.0)  # a step begins with it
        try:
            _bounded(grammar, stock, row, 0)
        except TimeoutError:
            row.fill_(-1)  # every token: the next is refused
        bitmask[idx].copy_(row[0])

    return fill_bitmask


def _validating(stock: Any) -> Any:
    def validate_tokens(grammar: Any, tokens: list[int]) -> list[int]:
        try:
            valid: list[int] = _bounded(grammar, stock, tokens)
        except TimeoutError:
            return []
        return valid

    return validate_tokens


def _rolling_back(stock: Any) -> Any:
    def rollback(grammar: Any, num_tokens: int) -> None:
        if not getattr(grammar, _IS_LOST, False):
            stock(grammar, num_tokens)

    return rollback


def _time_of(grammar: Any) -> RequestTime:
    if not hasattr(grammar, _TIME):
        share_time(grammar, RequestTime(tenant=TenantTime.full("", now=time.monotonic())))
    found: RequestTime = getattr(grammar, _TIME)
    return found


def _bounded(grammar: Any, stock: Any, *args: Any) -> Any:
    """Return the result of a grammar's method. Raises TimeoutError, before the call if no time is left for
    it.
    """
    of_request = _time_of(grammar)
    seconds = of_request.call_seconds()
    if seconds <= 0 or getattr(grammar, _IS_LOST, False):
        raise TimeoutError
    if getattr(grammar, _IS_PLAIN, False):
        began = time.thread_time()
        result = stock(grammar, *args)
        _count(grammar, time.thread_time() - began)
        return result
    tenant = of_request.tenant.name
    if _has_abandoned_too_many(tenant):
        raise TimeoutError
    thread = _idle.pop() if _idle else _CallThread()
    try:
        result, error, took = thread.call(partial(stock, grammar, *args), seconds=seconds, tenant=tenant)
    except TimeoutError:
        setattr(grammar, _IS_LOST, True)
        _count(grammar, seconds)
        raise
    _idle.append(thread)
    _count(grammar, took)
    if error is not None:
        raise error
    return result


def _count(grammar: Any, seconds: float) -> None:
    _time_of(grammar).spend(seconds)
    setattr(grammar, _STEP_SECONDS, getattr(grammar, _STEP_SECONDS, 0.0) + seconds)


def _has_abandoned_too_many(tenant: str) -> bool:
    if not _abandoned:
        return False
    tenants = list(_abandoned.values())
    own = tenants.count(tenant)
    return own >= MAX_ABANDONED or (own > 0 and len(tenants) >= MAX_ABANDONED_IN_ALL)


class _CallThread:
    """A thread that makes one call at a time."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._told: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()
        self.thread = Thread(target=self._run, name="mint-structure", daemon=True)
        self.thread.start()
        assert self.thread.ident is not None
        self._clock = time.pthread_getcpuclockid(self.thread.ident)

    def call(
        self, work: Callable[[], Any], *, seconds: float, tenant: str
    ) -> tuple[Any, Exception | None, float]:
        """Return the result of a tenant's call, and its seconds of processor time; raise its errors.

        Raises TimeoutError when it takes more. The thread ends with that call, and takes no other.
        """
        began = time.clock_gettime(self._clock)
        self._asked.put(work)
        took = 0.0
        while took < seconds:
            try:
                result, error = self._told.get(timeout=seconds - took)
            except Empty:
                # It may have waited for the processor.
                took = time.clock_gettime(self._clock) - began
            else:
                return result, error, time.clock_gettime(self._clock) - began
        assert self.thread.native_id is not None
        os.setpriority(os.PRIO_PROCESS, self.thread.native_id, 19)
        _abandoned[self] = tenant
        self._asked.put(None)
        raise TimeoutError

    def _run(self) -> None:
        while (work := self._asked.get()) is not None:
            try:
                told: tuple[Any, Exception | None] = (work(), None)
            except Exception as error:  # noqa: BLE001  # whoever asked raises it
                told = (None, error)
            del work  # and with it the answer's grammar
            self._told.put(told)
        _abandoned.pop(self, None)


_idle: list[_CallThread] = []
_abandoned: dict[_CallThread, str] = {}
"""The tenant of each."""
