"""Memory that a step has freed is the next one's."""

import subprocess
import sys

import pytest

ROUNDS, BLOCKS, BLOCK_BYTES, PAGE_BYTES = 4, 64, 1 << 20, 4096
# In a process of its own: what is set holds for the whole of it.
PROGRAM = f"""
import resource
from services.trainer.adapters.freed_memory import keep_freed_memory

def step():
    blocks = [b"x" * {BLOCK_BYTES} for _ in range({BLOCKS})]
    del blocks

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

is_kept = keep_freed_memory()
step()
before = faults()
for _ in range({ROUNDS}):
    step()
print(faults() - before if is_kept else -1)
"""


def test_a_step_faults_in_no_memory_that_the_one_before_had() -> None:
    command = [sys.executable, "-c", PROGRAM]
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    faults = int(found.stdout)
    if faults < 0:
        pytest.skip("not glibc")
    assert faults < BLOCKS * BLOCK_BYTES // PAGE_BYTES // 10
