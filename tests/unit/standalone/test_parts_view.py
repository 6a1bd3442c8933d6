"""What a start prints where there is no terminal."""

import io

from rich.console import Console

from services.standalone.core.lifecycle import PartState, PartStatus
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
