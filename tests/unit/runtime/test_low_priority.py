"""What computes in the background gives way to other sessions' processes and to its own process's threads."""

import subprocess
import sys
from pathlib import Path

import pytest

from mint_common.runtime import low_priority

AUTOGROUP = Path("/proc/self/autogroup")
_PROGRAM = """
import os, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from mint_common.runtime.low_priority import let_session_give_way, let_thread_give_way

def niceness():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

def started_by_it():
    found = []
    thread = threading.Thread(target=lambda: found.append(niceness()))
    thread.start()
    thread.join()
    return found[0]

let_session_give_way(10)
with ThreadPoolExecutor(1, "compute", let_thread_give_way, (10,)) as compute:
    print(niceness(), compute.submit(niceness).result(), compute.submit(started_by_it).result())
if os.path.exists("/proc/self/autogroup"):
    print(*Path("/proc/self/autogroup").read_text().split()[-1:])
"""


def _run(*, own_session: bool) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        start_new_session=own_session,
    )
    return done.stdout.split()


def test_a_thread_gives_way_with_those_that_it_starts_and_the_others_stay() -> None:
    assert _run(own_session=True)[:3] == ["0", "10", "10"]


class BusyAutogroup:
    """A file that takes one change in a while."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.text = ""

    def write_text(self, text: str) -> None:
        self.refusals -= 1
        if self.refusals >= 0:
            raise BlockingIOError
        self.text = text


def test_a_session_gives_way_also_when_several_processes_start_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel refused all but the first within 0.1 s, and the others kept the priority of an engine."""
    monkeypatch.setattr(low_priority, "_PAUSE_SECONDS", 0.0)
    busy = BusyAutogroup(refusals=3)
    monkeypatch.setattr(low_priority, "_AUTOGROUP", busy)
    low_priority._set_session_niceness(10)
    assert busy.text == "10"


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="Linux with autogroups")
def test_only_a_session_that_the_process_leads_gives_way() -> None:
    assert _run(own_session=True)[3] == "10"
    ours = AUTOGROUP.read_text().split()[-1:]  # nothing where this session is in no autogroup
    assert _run(own_session=False)[3:] == ours
