"""Structures are compiled for the tenants in turn, and who waits for one holds no seat."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = [
    pytest.mark.engine,
    # torch's, when vLLM's modules are imported
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
pytest.importorskip("vllm")


class _Request(SimpleNamespace):
    """What the queue reads of vLLM's, which is hashable."""

    __hash__ = object.__hash__


def _request(
    tenant: str, name: str, *, compiled: Future[Any] | None = None, is_background: bool = False
) -> Any:
    from vllm.v1.request import RequestStatus

    waits = RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
    return _Request(
        request_id=name,
        cache_salt=tenant,
        priority=int(is_background),
        num_prompt_tokens=1,
        status=waits if compiled else RequestStatus.WAITING,
        structured_output_request=SimpleNamespace(is_grammar_ready=compiled.done()) if compiled else None,
    )


def _queue(requests: Iterable[Any]) -> Any:
    from services.loader.adapters.vllm.tenant_queue import TenantQueue

    queue = TenantQueue(seats=2, reserve=1)
    for request in requests:
        queue.add_request(request)
    return queue


def test_a_tenants_structures_are_compiled_next_after_one_of_anothers_flood() -> None:
    from services.loader.adapters.vllm.tenant_queue import CompileTurns

    begun, go_on, order = Event(), Event(), []

    def compile_structure(request: Any) -> str:
        begun.set()
        go_on.wait(10)
        order.append(request.request_id)
        return f"grammar of {request.request_id}"

    turns = CompileTurns(ThreadPoolExecutor(1))
    many = [turns.submit(compile_structure, _request("many", f"many-{at}")) for at in range(20)]
    assert begun.wait(10)
    few = turns.submit(compile_structure, _request("few", "few"))
    go_on.set()
    assert few.result(10) == "grammar of few"
    assert order.index("few") <= 1
    assert [each.result(10) for each in many] == [f"grammar of many-{at}" for at in range(20)]
    turns.shutdown()


def test_a_structure_that_cannot_be_compiled_is_its_own_requests_error() -> None:
    from services.loader.adapters.vllm.tenant_queue import CompileTurns

    def compile_structure(request: Any) -> str:
        if request.request_id == "bad":
            raise ValueError(request.request_id)
        return "grammar"

    turns = CompileTurns(ThreadPoolExecutor(1))
    bad, good = (turns.submit(compile_structure, _request("many", name)) for name in ("bad", "good"))
    assert isinstance(bad.exception(10), ValueError)
    assert good.result(10) == "grammar"
    turns.shutdown()


def test_who_waits_for_its_structure_holds_no_seat_until_it_is_compiled() -> None:
    pending: Future[Any] = Future()
    waiting = [_request("many", f"many-{at}", compiled=pending) for at in range(20)]
    queue = _queue([*waiting, _request("few", "few")])
    assert len(queue) == len(list(queue)) == 21
    assert queue.take_compiled() == []
    assert queue.pop_request().request_id == "few"
    assert not queue
    waiting[3].structured_output_request.is_grammar_ready = True
    assert queue.take_compiled() == [waiting[3]]
    assert queue.peek_request() is waiting[3]
    queue.remove_requests(waiting)
    assert len(queue) == 0


def test_interactive_requests_start_before_background_ones_that_came_first() -> None:
    background = [_request("one", f"background-{at}", is_background=True) for at in range(9)]
    queue = _queue([*background, _request("one", "chat"), _request("two", "other")])
    assert [queue.pop_request().request_id for _ in range(2)] == ["chat", "other"]
    assert queue.pop_request().request_id == "background-0", "in a seat of the reserve"
    assert not queue
    assert len(queue) == 8


def test_a_kind_that_is_left_out_does_not_start() -> None:
    queue = _queue([_request("one", "background", is_background=True), _request("one", "chat")])
    queue.left_out = queue.interactive
    assert queue.pop_request().request_id == "background"
    assert not queue
    queue.left_out = queue.background
    assert queue.pop_request().request_id == "chat"


def test_who_sits_out_does_not_start_and_others_do() -> None:
    queue = _queue([_request("many", "many"), _request("few", "few")])
    queue.sitting_out = frozenset({"many"})
    assert queue.pop_request().request_id == "few"
    assert not queue
    queue.sitting_out = frozenset()
    assert queue.pop_request().request_id == "many"
