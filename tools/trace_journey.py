"""List the product's files whose code runs in a stack's processes while a command does.

    eval "$(python tools/trace_journey.py env FOLDER)"; mint up     # in one shell
    python tools/trace_journey.py run FOLDER 5 curl ...             # in another

Of the 5 runs a file counts that ran in each, which leaves out most periodic work.
"""

import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOOK = """
import os, signal, sys, threading, time
from pathlib import Path

FOLDER, ROOT = Path(os.environ["TRACE_JOURNEY"]), os.environ["TRACE_JOURNEY_ROOT"]
OURS = (ROOT + "/services/", ROOT + "/libs/")
seen = set()

def note(frame, event, argument):
    if event == "call":
        seen.add(frame.f_code.co_filename)

def begin(number, frame):
    sys.setprofile(note)

def follow():
    known = ""
    while True:
        time.sleep(0.02)
        window = FOLDER / "window"
        if window.exists() and (told := window.read_text()) != known:
            if not known:  # until then the main thread starts at its usual speed
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR2)
            known = told
            found = sorted(each for each in set(seen) if each.startswith(OURS))
            seen.clear()
            (FOLDER / "seen" / f"{os.getpid()}.{told}").write_text("\\n".join(found))

signal.signal(signal.SIGUSR2, begin)
threading.Thread(target=follow, daemon=True).start()
threading.setprofile(note)
"""
SETTLE_SECONDS = 1.0
"""Time in which every process notices that a window has begun or ended."""


def print_environment(folder: Path) -> None:
    """Write the hook, and print what makes processes load it."""
    (folder / "seen").mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(HOOK)
    at = shlex.quote(str(folder))
    print(f"export PYTHONPATH={at} TRACE_JOURNEY={at} TRACE_JOURNEY_ROOT={shlex.quote(str(ROOT))}")


def trace(folder: Path, times: int, command: list[str]) -> None:
    """Run the command, and print the files that ran every time."""
    runs = [_ran(folder, number, command) for number in range(times)]
    files = sorted(set.intersection(*runs))
    print("\n".join(files))
    for part, count in Counter("/".join(each.split("/")[:2]) for each in files).items():
        print(f"{count:4} {part}")
    print(f"{len(files):4} files in each of {times} runs; in a run {[len(run) for run in runs]}")


def _ran(folder: Path, number: int, command: list[str]) -> set[str]:
    for name, work in (("a", ["true"]), ("b", command)):
        subprocess.run(work, check=True, stdout=subprocess.DEVNULL)
        (folder / "window").write_text(f"{number}{name}")
        time.sleep(SETTLE_SECONDS)
    lines = {line for told in (folder / "seen").glob(f"*.{number}b") for line in told.read_text().split("\n")}
    return {os.path.relpath(line, ROOT) for line in lines if line}


if __name__ == "__main__":
    if sys.argv[1] == "env":
        print_environment(Path(sys.argv[2]).absolute())
    else:
        trace(Path(sys.argv[2]).absolute(), int(sys.argv[3]), sys.argv[4:])
