"""Nothing of a whole stack, its engine's process among it, survives a kill -9 of `mint up`.

`test_supervisor.py` kills the supervisor of small processes, `tests/integration/loader/test_process.py` a
loader that has an engine: this one needs a stack of its own.
"""

import asyncio
from pathlib import Path

import psutil
import pytest
from e2e.stack import start_stack

from tests.processes import until_ended

pytestmark = [pytest.mark.integration, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]


def test_kill_9_leaves_no_process(tmp_path: Path) -> None:
    stack = start_stack(tmp_path / "state")
    family = psutil.Process(stack.process.pid).children(recursive=True)
    try:
        assert any("EngineCore" in process.name() for process in family)
    finally:
        stack.process.kill()
    stack.process.wait()
    stack.stop()
    asyncio.run(until_ended(family))
