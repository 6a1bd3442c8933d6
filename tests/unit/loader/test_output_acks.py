"""An engine waits while too many steps' outputs are on their way, and not for ever."""

import time
from types import SimpleNamespace

import pytest

from services.loader.adapters.vllm import output_acks
from services.loader.adapters.vllm.output_acks import (
    MAX_UNACKED_STEPS,
    MAX_WAIT_SECONDS,
    OutputAcks,
    OutputWindow,
)


def pair():
    processor = SimpleNamespace(
        process_outputs=lambda outputs, timestamp=None: (outputs, timestamp),
        update_scheduler_stats=lambda _: None,
    )
    taken = OutputAcks()
    taken.watch(processor)
    return processor, OutputWindow(taken.path)


def seconds_of(wait) -> float:
    began = time.monotonic()
    wait()
    return time.monotonic() - began


@pytest.fixture
def long_wait(monkeypatch: pytest.MonkeyPatch) -> float:
    """Make a wait so long that a busy machine is not taken for one."""
    monkeypatch.setattr(output_acks, "MAX_WAIT_SECONDS", 20.0)
    return 20.0


def test_some_may_be_on_their_way(long_wait: float) -> None:
    _, sent = pair()
    for at in range(MAX_UNACKED_STEPS):
        sent.note(float(1 + at))
    assert not sent.wait()


def test_a_loader_that_takes_nothing_in_holds_nobody_up_for_long() -> None:
    _, sent = pair()
    for at in range(MAX_UNACKED_STEPS + 1):
        sent.note(float(1 + at))
    assert seconds_of(sent.wait) >= MAX_WAIT_SECONDS


def test_what_is_taken_in_is_counted_no_more(long_wait: float) -> None:
    processor, sent = pair()
    for at in range(MAX_UNACKED_STEPS + 1):
        sent.note(float(1 + at))
    assert processor.process_outputs("outputs", 1.0) == ("outputs", 1.0)
    processor.update_scheduler_stats(None)
    assert seconds_of(sent.wait) < long_wait


def test_what_is_taken_in_by_half_is_still_on_its_way() -> None:
    processor, sent = pair()
    for at in range(MAX_UNACKED_STEPS + 1):
        sent.note(float(1 + at))
    processor.process_outputs("the first half", 1.0)
    assert seconds_of(sent.wait) >= MAX_WAIT_SECONDS
