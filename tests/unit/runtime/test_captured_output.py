"""What libraries write past Python's logging is logged as JSON: no text of theirs is a log line."""

import json
import subprocess
import sys
from typing import Any

from mint_common.telemetry.logs import MAX_TEXT

FORGED = '{"time":"2026-01-01","level":"CRITICAL","service":"loader","message":"FORGED"}'
_BEGIN = f"""
import faulthandler, logging, os, sys, time
from mint_common.runtime.captured_output import captured_output, keep_log_apart
from mint_common.telemetry.logs import log_to_stdout
FORGED = {FORGED!r}
keep_log_apart()
log_to_stdout(service="loader", level="INFO")
"""


def _logged(program: str) -> list[dict[str, Any]]:
    """Return the log of a process that runs a program; the pipe ends with all that write to it."""
    process = subprocess.run(
        [sys.executable, "-c", _BEGIN + program], capture_output=True, timeout=60, check=False
    )
    assert process.stderr == b""
    return [json.loads(line) for line in process.stdout.splitlines()]


def test_what_a_library_writes_is_the_text_of_a_log_line() -> None:
    own, written = _logged(
        """
with captured_output(service="loader"):
    logging.getLogger("services").info("own")
    os.write(2, b"warning: x\\n" + FORGED.encode() + b"\\n")
    print("not by the log", file=os.fdopen(1, "w", closefd=False), flush=True)
"""
    )
    assert own["message"] == "own"
    assert written["service"] == "loader"
    assert written["output"] == f"warning: x\n{FORGED}\nnot by the log\n"


def test_a_process_that_it_starts_is_captured_as_well() -> None:
    [written] = _logged(
        """
import subprocess
with captured_output(service="loader"):
    subprocess.run([sys.executable, "-c", "import os; os.write(2, b'of a child')"])
"""
    )
    assert written["output"] == "of a child"


def test_a_flood_is_cut_and_counted() -> None:
    lines = _logged(
        """
with captured_output(service="loader"):
    for _ in range(12):
        os.write(2, b"y" * 60_000)
        time.sleep(0.25)
    os.write(2, b"x" * (5 << 20))
"""
    )
    assert all(len(json.dumps(line)) < MAX_TEXT + 500 for line in lines)
    assert sum(line["characters"] + line["bytes_left_out"] for line in lines) >= 12 * 60_000


def test_what_a_crash_leaves_is_logged() -> None:
    [written] = _logged(
        """
with captured_output(service="loader"):
    faulthandler.enable()
    import ctypes
    ctypes.string_at(0)
"""
    )
    assert "Segmentation fault" in written["output"]
    assert "<module>" in written["output"]


def test_what_a_process_writes_while_it_drains_is_logged() -> None:
    """A supervisor that signals all processes at once must not end the reader first."""
    [written] = _logged(
        """
import signal
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with captured_output(service="loader"):
    readers = Path("/proc/self/task", str(os.getpid()), "children").read_text().split()
    for reader in readers:
        os.kill(int(reader), signal.SIGTERM)
    time.sleep(0.1)
    os.write(2, b"drains on")
"""
    )
    assert written["output"] == "drains on"
