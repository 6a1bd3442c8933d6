"""An engine waits while too many steps' outputs are on their way, and not for ever."""

import time
from types import SimpleNamespace

from services.loader.adapters.vllm.taken_outputs import (
    LONGEST_WAIT_SECONDS,
    MOST_AHEAD,
    SentOutputs,
    TakenOutputs,
)


def pair():
    processor = SimpleNamespace(process_outputs=lambda outputs, timestamp=None: (outputs, timestamp))
    taken = TakenOutputs()
    taken.watch(processor)
    return processor, SentOutputs(taken.path)


def seconds_of(wait) -> float:
    began = time.monotonic()
    wait()
    return time.monotonic() - began


def test_some_may_be_on_their_way() -> None:
    _, sent = pair()
    for at in range(MOST_AHEAD):
        sent.note(float(1 + at))
    assert seconds_of(sent.wait) < LONGEST_WAIT_SECONDS


def test_a_loader_that_takes_nothing_in_holds_nobody_up_for_long() -> None:
    _, sent = pair()
    for at in range(MOST_AHEAD + 1):
        sent.note(float(1 + at))
    assert seconds_of(sent.wait) >= LONGEST_WAIT_SECONDS


def test_what_is_taken_in_is_counted_no_more() -> None:
    processor, sent = pair()
    for at in range(MOST_AHEAD + 1):
        sent.note(float(1 + at))
    assert processor.process_outputs("outputs", 1.0) == ("outputs", 1.0)
    assert seconds_of(sent.wait) < LONGEST_WAIT_SECONDS
