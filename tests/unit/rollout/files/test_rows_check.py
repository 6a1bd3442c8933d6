"""A check of rows ends with its request."""

import asyncio
import os
from pathlib import Path

import psutil
import pytest

from services.rollout.adapters.rows_check import RowsCheckProcess


async def test_a_cancelled_check_leaves_no_process(tmp_path: Path) -> None:
    fifo = tmp_path / "rows"
    os.mkfifo(fifo)
    writer = os.open(fifo, os.O_RDWR)  # the process waits for what never comes
    checking = asyncio.create_task(RowsCheckProcess().check(fifo))
    before = set(psutil.Process().children())
    while not (started := set(psutil.Process().children()) - before) and not checking.done():
        await asyncio.sleep(0.01)
    checking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await checking
    assert started
    assert not started & set(psutil.Process().children())
    os.close(writer)
