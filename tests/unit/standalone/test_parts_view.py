"""What a start prints where there is no terminal."""

import asyncio
import io
import re
import time

import pytest
from rich.console import Console

from mint_common.waiting import cancel_all
from services.standalone.core.lifecycle import PartState, PartStatus
from services.standalone.views import parts
from services.standalone.views.parts import PartsView


def test_a_part_that_never_started_is_not_said_to_have_stopped() -> None:
    out = io.StringIO()
    view = PartsView(Console(file=out))
    view({"postgres": PartStatus(state=PartState.STARTING, starts=1), "gateway": PartStatus()})
    view(
        {
            "postgres": PartStatus(state=PartState.STOPPED, starts=1),
            "gateway": PartStatus(state=PartState.STOPPED),
        }
    )
    lines = [line.split()[1:] for line in out.getvalue().splitlines()]
    assert lines == [["postgres", "starting"], ["postgres", "stopped"]]


async def test_a_part_that_loads_for_long_is_named_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "REMIND_SECONDS", 0.01)
    out = io.StringIO()
    view = PartsView(Console(file=out, width=200))
    reminding = asyncio.create_task(view.remind())
    began = time.monotonic() - 40.0
    view(
        {
            "registry": PartStatus(state=PartState.READY, starts=1),
            "loader-tiny": PartStatus(state=PartState.STARTING, starts=1, since=began),
        }
    )
    while "still loading" not in out.getvalue():
        await asyncio.sleep(0.01)
    await cancel_all(reminding)
    assert re.search(r"still loading: loader-tiny \(\d\d+ s\)", out.getvalue())
    assert view.are_ready(["registry"])
    assert not view.are_ready(["registry", "loader-tiny"])


def test_on_a_terminal_a_part_shows_for_how_long_it_starts() -> None:
    out = io.StringIO()
    view = PartsView(Console(file=out, width=80, force_terminal=True, color_system=None))
    with view.live():
        view({"loader-tiny": PartStatus(state=PartState.STARTING, starts=1, since=time.monotonic() - 40.0)})
    assert re.search(r"starting, \d\d+ s", out.getvalue())
