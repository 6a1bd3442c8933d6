"""Memory that a step has freed is there for the next one: the system clears no page for it again."""

import platform
import subprocess
import sys

import pytest

AGAIN = """
import ctypes, resource
from services.trainer.adapters.training.freed_memory import keep_freed_memory
if {keeps}:
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def take():
    # Side by side: a lone block would be kept by glibc's own guess of the threshold after the first time.
    blocks = [libc.malloc(16 << 20) for _ in range(4)]
    for block in blocks:
        ctypes.memset(block, 1, 16 << 20)
    for block in blocks:
        libc.free(block)
take()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    take()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(*, keeps: bool) -> int:
    script = AGAIN.replace("{keeps}", str(keeps))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is asked")
def test_freed_memory_is_taken_again() -> None:
    assert _faults(keeps=True) < 200 < _faults(keeps=False)


GIVEN_BACK = """
from pathlib import Path
from services.trainer.adapters.training.freed_memory import give_memory_back, keep_freed_memory
keep_freed_memory()
def resident_kb():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0])
blocks = [bytearray(1 << 20) for _ in range(64)]
used = resident_kb()
del blocks[::2], blocks[:-1]  # the last one is above what is free
free = resident_kb()
give_memory_back()
print(used - free, free - resident_kb())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is asked")
def test_unused_memory_between_used_blocks_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, text=True, check=True)
    freed_kb, given_back_kb = map(int, done.stdout.split())
    assert freed_kb < 10_000
    assert given_back_kb > 50_000


def test_another_c_library_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from services.trainer.adapters.training import freed_memory

    monkeypatch.setattr(freed_memory.platform, "libc_ver", lambda: ("", ""))
    assert not freed_memory.keep_freed_memory()
