"""Memory is given up after the last copy from it. The stream is simulated: these tests run without a GPU."""

import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from services.loader.adapters.vllm.copies import Copies, copies_to, copy_all


@dataclass
class Stream:
    """Work is done in order, when somebody waits for it or it is run."""

    asked: list[str] = field(default_factory=list)
    done: int = 0
    waits: int = 0

    def event(self) -> "Event":
        return Event(self)


@dataclass
class Event:
    stream: Stream
    place: int | None = None

    def record(self) -> None:
        self.place = len(self.stream.asked)

    def query(self) -> bool:
        assert self.place is not None
        return self.stream.done >= self.place

    def synchronize(self) -> None:
        assert self.place is not None
        self.stream.waits += 1
        self.stream.done = max(self.stream.done, self.place)


def test_memory_is_given_up_after_its_last_copy_and_nobody_waits_for_later_work() -> None:
    stream = Stream()
    copies = Copies(stream.event)
    stream.asked += ["slice 1 of adapter 7"]
    copies.mark(7)
    stream.asked += ["slice 2 of adapter 7"]
    copies.mark(7)
    stream.asked += ["step", "adapter 8"]
    copies.mark(8)
    copies.settle(7)
    assert (stream.done, stream.waits) == (2, 1)
    copies.settle(7)
    assert stream.waits == 1


def test_nobody_waits_for_a_copy_that_is_over_or_never_was() -> None:
    stream = Stream(asked=["adapter 7"])
    copies = Copies(stream.event)
    copies.mark(7)
    stream.done = 1
    copies.settle(7)
    copies.settle(99)
    assert stream.waits == 0


@pytest.mark.parametrize(("status", "is_registered"), [(0, True), (2, False)])
def test_a_memory_is_registered_whole_and_goes_on_without(
    status: int, is_registered: bool, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[tuple[int, int]] = []

    def register(begin: int, size: int) -> int:
        asked.append((begin, size))
        return status

    memory = torch.zeros(100, dtype=torch.bfloat16)
    assert Copies(register=register).register(memory) is is_registered
    assert asked == [(memory.data_ptr(), 200)]
    assert bool(caplog.records) is not is_registered


def test_on_a_cpu_copies_are_over_at_once() -> None:
    places, tensors = [torch.zeros(3), torch.zeros(2, 2)], [torch.ones(3), torch.full((2, 2), 5.0)]
    copy_all(places, tensors)
    assert all(map(torch.equal, places, tensors))
    assert not copies_to("cpu").register(places[0])


def test_on_a_device_each_copy_is_asked_for_and_not_waited_for() -> None:
    asked: list[Any] = []

    class Place:
        device = SimpleNamespace(type="cuda")

        def copy_(self, tensor: Any, *, non_blocking: bool) -> None:
            asked.append((tensor, non_blocking))

    copy_all([Place(), Place()], ["a", "b"])
    assert asked == [("a", True), ("b", True)]


@pytest.mark.parametrize(("status", "stall_ms"), [(0, 3.0), (2, 0.0)])
def test_the_bytes_of_registered_memory_have_a_time_of_their_own(status: int, stall_ms: float) -> None:
    copies = Copies(register=lambda _begin, _size: status, measure=lambda _memory: 3e-6)
    copies.register(torch.zeros(1))
    assert copies.stall_ms(time.perf_counter(), 1_000_000) == pytest.approx(stall_ms, abs=1.0)
    assert copies.stall_ms(time.perf_counter() - 1.0, 1_000_000) == pytest.approx(1000.0, rel=0.1)
