"""`mint down` stops a whole stack, its engine's process among it.

`test_supervisor.py` stops small processes by it: this one needs a stack of its own.
"""

from pathlib import Path

import psutil
import pytest
from e2e.stack import mint, start_stack

from tests.processes import has_ended

pytestmark = [pytest.mark.integration, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]


def test_down_stops_every_process(tmp_path: Path) -> None:
    stack = start_stack(tmp_path / "state")
    family = psutil.Process(stack.process.pid).children(recursive=True)
    try:
        assert any("EngineCore" in process.name() for process in family)
        down = mint("down", "--dir", str(stack.folder))
        assert down.returncode == 0, down.stderr
        assert stack.process.wait(10) == 0
        assert [process for process in family if not has_ended(process.pid)] == []
        status = mint("status", "--dir", str(stack.folder))
        assert status.returncode == 1
        assert "No stack runs on" in status.stderr
    finally:
        stack.stop()
