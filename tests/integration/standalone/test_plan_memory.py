"""`mint plan -f` against the memory of the parts that `mint up -f` starts, at work.

Proportional set sizes: pages that processes share count for each in part. A peak is the largest of samples.
"""

import json
import logging
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import Self

import psutil
import pytest
from e2e.stack import mint, start_stack

pytestmark = [pytest.mark.integration, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]

_log = logging.getLogger(__name__)

TOLERANCE = 0.15
POLICIES, STAGED, TOKENS, MICROBATCH = 2, 4, 256, 256
FILE = f"""\
bases:
  {{base}}:
    engines:
      - {{{{slots: {POLICIES}, host_capacity: {STAGED}, kv_cache_bytes: 134217728}}}}
    trainer: {{{{resident_policies: {POLICIES}, host_policies: 0, microbatch_tokens: {MICROBATCH}}}}}
"""
VOCABULARY = {"tiny": 260, "smollm2": 49_000}


class Peaks:
    """Samples the memory of the parts of a running stack."""

    def __init__(self, folder: Path) -> None:
        self.of_part: dict[str, int] = defaultdict(int)
        self._run = folder / "run.json"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        parts = json.loads(self._run.read_text())["parts"]
        pids = {name: part["pid"] for name, part in parts.items() if name.startswith(("trainer", "loader"))}
        while not self._stop.wait(0.1):
            for name, pid in pids.items():
                family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
                self.of_part[name] = max(self.of_part[name], sum(pss(each.pid) for each in family))


def pss(pid: int) -> int:
    """Return a process's proportional set size in bytes, 0 if it has ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    line = next(line for line in rollup.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) << 10


@pytest.mark.parametrize("base", VOCABULARY)
def test_parts_at_work_take_what_was_planned(base: str, tmp_path: Path) -> None:
    folder, file = tmp_path / "state", tmp_path / "mint.yaml"
    file.write_text(FILE.format(base=base))
    added = mint("base", "add", base, "--dir", str(folder), seconds=600)
    assert added.returncode == 0, added.stderr
    told = json.loads(mint("plan", "-f", str(file), "--dir", str(folder), "--json").stdout)
    planned = {each["part"]: each["total"] for each in told["holdings"]}
    stack = start_stack(folder, file=file)
    try:
        load = [f"http://127.0.0.1:{stack.port}", stack.api_key]
        load += [base, *map(str, (VOCABULARY[base], POLICIES, STAGED, TOKENS))]
        command = [sys.executable, str(Path(__file__).with_name("full_load.py")), *load]
        with Peaks(folder) as peaks:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    finally:
        stack.stop()
    assert done.returncode == 0, done.stderr[-3000:]
    off = {name: round(planned[name] / peak - 1, 3) for name, peak in peaks.of_part.items()}
    _log.info("planned over measured, less 1: %s", off)
    assert off.keys() == planned.keys()
    assert all(abs(each) <= TOLERANCE for each in off.values()), (off, planned, dict(peaks.of_part))
