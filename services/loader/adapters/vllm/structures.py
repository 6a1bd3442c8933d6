"""Structures of answers, which xgrammar follows: a request ends when following its own takes too long.

xgrammar has no bound of its own, and a single call of it may take minutes: to accept a long token where the
pattern is ``((a+)+)+``, nested 100 deep, or to find the tokens that may come next in the grammar of 60 rules
``r0 ::= r1 r1 | r1``, ``r1 ::= r2 r2 | r2``, and so on. No call can be ended, but none holds Python's lock.
So a thread of its own makes it, and the engine's waits as long as the answer may still take of the processor.
A thread whose call takes longer is abandoned to it, at the lowest priority; nobody touches its grammar again.

A turn of a thread costs some 30 to 150 us. Schemas without patterns do without: delimiters stand between
their values, and no call takes more than some 20 ms.
"""

import logging
import math
import os
import time
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

SECONDS_A_TOKEN = 0.002
"""Of the processor: a step of a usual schema takes 0.01 to 1.5 ms with a vocabulary of 150,000 tokens."""
MAX_SECONDS = 0.1
"""Of the processor: what an answer has at its beginning, and the most that its tokens save up."""
MAX_ABANDONED = 100
"""Threads that were abandoned to their call: at so many, a call that needs a new one ends its answer."""

_IS_PLAIN = "_mint_is_plain"
_SECONDS_LEFT = "_mint_seconds_left"
_LOST = -math.inf
_REPORTS = {
    "vllm.v1.core.sched.scheduler": "Unexpected: grammar rejected tokens",
    "vllm.v1.structured_output": "Unexpected: grammar terminated or rejected draft",
    "vllm.v1.structured_output.backend_xgrammar": "Failed to advance FSM",
}
"""How vLLM's reports of what a grammar refuses begin, by logger. They have tokens of the answer in them."""


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
        left = getattr(grammar, _SECONDS_LEFT)
        if left > 0:
            setattr(grammar, _SECONDS_LEFT, min(MAX_SECONDS, left + SECONDS_A_TOKEN * len(tokens)))
        return is_accepted

    return accept_tokens


def _filling(stock: Any) -> Any:
    def fill_bitmask(grammar: Any, bitmask: Any, idx: int) -> None:
        # A call that its thread is abandoned to writes to this row, not to one that others have by then.
        row = bitmask[idx : idx + 1].clone()
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
        if getattr(grammar, _SECONDS_LEFT, 0.0) != _LOST:
            stock(grammar, num_tokens)

    return rollback


def _bounded(grammar: Any, stock: Any, *args: Any) -> Any:
    """Return what a grammar's method does. Raises TimeoutError, before the call if no time is left for it."""
    left = getattr(grammar, _SECONDS_LEFT, MAX_SECONDS)
    if left <= 0:
        raise TimeoutError
    if getattr(grammar, _IS_PLAIN, False):
        began = time.thread_time()
        result = stock(grammar, *args)
        setattr(grammar, _SECONDS_LEFT, left - (time.thread_time() - began))
        return result
    try:
        thread = _idle.pop()
    except IndexError:
        if len(_abandoned) >= MAX_ABANDONED:
            raise TimeoutError from None
        thread = _CallThread()
    try:
        result, error, took = thread.call(partial(stock, grammar, *args), seconds=left)
    except TimeoutError:
        setattr(grammar, _SECONDS_LEFT, _LOST)
        raise
    _idle.append(thread)
    setattr(grammar, _SECONDS_LEFT, left - took)
    if error is not None:
        raise error
    return result


class _CallThread:
    """A thread that makes one call at a time."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._told: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()
        self.thread = Thread(target=self._run, name="mint-structure", daemon=True)
        self.thread.start()
        assert self.thread.ident is not None
        self._clock = time.pthread_getcpuclockid(self.thread.ident)

    def call(self, work: Callable[[], Any], *, seconds: float) -> tuple[Any, Exception | None, float]:
        """Return what a call returns or raises, and how many seconds of the processor it took.

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
        _abandoned.add(self)
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
        _abandoned.discard(self)


_idle: list[_CallThread] = []
_abandoned: set[_CallThread] = set()
