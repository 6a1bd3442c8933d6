"""The watch over event loops sees what our own code does, and nothing else."""

import pytest
from blocking import ROOT, BlockingCall

SOURCE = "import os\nasync def look():\n    os.listdir('.')\n"


async def _run(file: str) -> None:
    names: dict[str, object] = {}
    exec(compile(SOURCE, str(ROOT / file), "exec"), names)
    await names["look"]()  # type: ignore[operator]  # made above


async def test_a_call_of_ours_that_blocks_the_loop_is_an_error() -> None:
    with pytest.raises(BlockingCall, match=r"os\.listdir"):
        await _run("services/loader/look.py")


async def test_a_test_may_block_its_own_loop() -> None:
    await _run("tests/look.py")
