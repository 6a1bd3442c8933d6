"""What is not rendered in time is left out."""

import itertools

import msgspec
import pytest
from unit.trainer.rendering.templates import named

from mint_common.datasets import RenderRequest, RowLine
from mint_common.errors import Overloaded
from services.standalone.adapters.bases import tiny_folder
from services.trainer.adapters.rendering import rendering
from services.trainer.adapters.rendering.rendering import BaseRendering
from services.trainer.core.rendering.rows import render_rows

TURN = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]


def request_of(rows: list[object]) -> RenderRequest:
    lines = tuple(RowLine(line=line, data=msgspec.json.encode(row)) for line, row in enumerate(rows, 1))
    return RenderRequest(rows=lines, method="sft")


def test_rows_are_left_out_when_the_time_is_over_also_within_a_row() -> None:
    request = request_of([{"messages": TURN}, {"messages": TURN * 100}, {"messages": TURN}])
    seconds = itertools.count()  # each call of the template takes one
    timed = named("qwen2_5", now=lambda: next(seconds))
    timed.deadline = 50
    found = render_rows(timed, request, max_context=4096)
    assert ([row.line for row in found.rows], found.left_out, found.problems) == ([1], (2, 3), ())
    assert next(seconds) < 60


async def test_a_trainer_answers_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    base = BaseRendering(tiny_folder(), max_context=64)
    request = request_of([{"prompt": "1 2 3", "completion": "4"}])
    assert len((await base.render(request)).rows) == 1
    monkeypatch.setattr(rendering, "RENDER_SECONDS", 0.0)
    found = await base.render(request)
    assert (found.rows, found.left_out) == ((), (1,))
    base.close()


async def test_a_request_that_waited_too_long_is_asked_again_and_says_nothing_of_its_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = BaseRendering(tiny_folder(), max_context=64)
    monkeypatch.setattr(rendering, "WAIT_SECONDS", -1.0)
    with pytest.raises(Overloaded):
        await base.render(request_of([{"prompt": "1 2 3", "completion": "4"}]))
    base.close()
