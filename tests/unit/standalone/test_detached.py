"""What is shown of a stack that starts in a session of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from mint_client.core.refusals import LocalFailureError
from services.standalone.commands.detached import HINT, _show

_STARTS = f"""
import time
print("1.00s  gateway ready", flush=True)
time.sleep(0.3)
print({HINT!r}[:9], end="", flush=True)
time.sleep(0.3)
print({HINT!r}[9:], flush=True)
time.sleep(30)
"""


def _started(code: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen([sys.executable, "-c", code], stdout=file)


def test_output_is_shown_until_the_stack_is_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = _started(_STARTS, tmp_path / "up.log")
    with (tmp_path / "up.log").open() as output:
        _show(output, process)
    assert process.poll() is None
    process.kill()
    process.wait()
    assert capsys.readouterr().out == "1.00s  gateway ready\n`mint down` stops it.\n"


def test_a_stack_that_does_not_come_up_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = _started("print('mint: port 8321 is taken'); raise SystemExit(1)", tmp_path / "up.log")
    with (tmp_path / "up.log").open() as output, pytest.raises(LocalFailureError, match="exit code 1"):
        _show(output, process)
    assert capsys.readouterr().out == "mint: port 8321 is taken\n"
