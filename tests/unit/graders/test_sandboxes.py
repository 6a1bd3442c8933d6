"""Source of users gives a reward or a fault, reaches nothing else, and leaves nothing to the next call."""

import json
import os
import platform
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from mint_common.graders import GradedSample, GraderFault
from mint_common.runtime.graders import process
from mint_common.runtime.graders.confinement import _ALLOWED
from mint_common.runtime.graders.monty import MontySandbox
from mint_common.runtime.graders.open import MEMORY_BYTES
from mint_common.runtime.graders.process import ProcessSandbox, SandboxUnavailable
from mint_common.runtime.graders.python import PythonSandbox
from tests.unit.graders import hostile
from tests.unit.graders.hostile import HONEST, SOURCES, outcome

FAULT = "python_grader_runtime_error"
SECONDS = 1.0


def process_sandbox() -> ProcessSandbox:
    sandbox = ProcessSandbox(workers=2, seconds=SECONDS, memory_bytes=64 << 20)
    try:
        sandbox.start()
    except SandboxUnavailable as problem:
        pytest.skip(f"nothing can be confined here: {problem}")
    return sandbox


@pytest.fixture(scope="module", params=["monty", "process"])
def sandbox(request) -> Iterator[PythonSandbox]:
    if request.param == "monty":
        pytest.importorskip("pydantic_monty")
        made: PythonSandbox = MontySandbox(workers=2, seconds=SECONDS, memory_bytes=64 << 20)
    else:
        made = process_sandbox()
    yield made
    made.close()


@pytest.fixture(scope="module")
def confined() -> Iterator[ProcessSandbox]:
    made = process_sandbox()
    yield made
    made.close()


def sample(text: str = "it is 42", **item: object) -> GradedSample:
    return GradedSample(output_text=text, item=item)


@pytest.mark.parametrize("name", SOURCES)
def test_a_hostile_source_ends_in_a_fault_and_the_next_is_graded(sandbox, name) -> None:
    assert outcome(sandbox, SOURCES[name]) == FAULT
    assert outcome(sandbox, HONEST) == "42.0"
    assert not Path("/tmp/grader-was-here").exists()


@pytest.mark.skipif(bool(os.geteuid()), reason="the tests run as another user already")
def test_it_does_so_as_another_user_than_root() -> None:
    command = [sys.executable, "-P", hostile.__file__]
    done = subprocess.run(command, capture_output=True, text=True, env={}, check=False)
    if "no sandbox" in done.stderr:
        pytest.skip(done.stderr)
    assert not done.returncode, done.stderr
    assert json.loads(done.stdout) == {**dict.fromkeys(SOURCES, FAULT), "": "42.0"}


@pytest.mark.parametrize(
    ("source", "reward"),
    [
        ("return len(item['words']) / 2", 1.5),
        ("return 1 if sample['output_json'] is None else 0", 1),
        ("import json\n    return json.loads('[1]')[0]", 1),
        ("import math\n    return math.sqrt(4)", 2),
        ("print('x' * 1000)\n    return 0.25", 0.25),
        ("from collections import Counter\n    return Counter('aab')['a']", 2),
        ("return -10 ** 9", -1e9),
    ],
)
def test_a_source_gets_the_sample_and_the_row(sandbox, source, reward) -> None:
    graded = f"def grade(sample, item):\n    {source}"
    assert sandbox.grade(graded, sample(words=["a", "b", "c"])) == reward
    sandbox.check(graded)


def test_an_answer_that_is_json_comes_read(sandbox) -> None:
    assert (
        sandbox.grade("def grade(sample, item): return sample['output_json']['x']", sample('{"x": 3}')) == 3
    )


def test_every_call_begins_anew(sandbox) -> None:
    counting = (
        "import random\ncalls = []\ndef grade(sample, item):\n"
        "    calls.append(1)\n    return len(calls) + random.random()"
    )
    rewards = {sandbox.grade(counting, sample()) for _ in range(6)}
    assert len(rewards) == 1, "neither state nor chance goes from one answer to another"


CLOCK = "import time\ndef grade(sample, item): return time.time() % 1000"
LONG_PRINT = "def grade(sample, item):\n    print('x' * 2_000_000)\n    return 1"


def test_the_clock_and_long_prints_are_as_the_docs_say(sandbox) -> None:
    """The real clock in a process, a fixed one in monty, which takes 1 MiB of print at most."""
    is_monty = isinstance(sandbox, MontySandbox)
    assert (outcome(sandbox, CLOCK) == outcome(sandbox, CLOCK)) == is_monty
    assert outcome(sandbox, LONG_PRINT) == (FAULT if is_monty else "1.0")


@pytest.mark.parametrize("name", ["nothing", "no function", "no Python", "an endless beginning"])
def test_a_source_is_checked_by_running_it(sandbox, name) -> None:
    with pytest.raises(GraderFault):
        sandbox.check(SOURCES[name])


def test_an_error_comes_with_the_line_of_the_source(sandbox) -> None:
    with pytest.raises(GraderFault, match="line 2") as fault:
        sandbox.grade("def grade(sample, item):\n    return item['none']", sample())
    assert "KeyError" in fault.value.message
    with pytest.raises(GraderFault) as fault:
        sandbox.grade(f"def grade(sample, item):\n    raise ValueError('{'x' * 100_000}')", sample())
    assert len(fault.value.message) <= 2000


@pytest.mark.parametrize("length", [30_000_000, 60_000_000])
def test_an_error_without_end_takes_a_bounded_memory_of_the_service(length) -> None:
    pytest.importorskip("pydantic_monty")
    made = MontySandbox(workers=1, seconds=SECONDS, memory_bytes=MEMORY_BYTES)
    tracemalloc.start()
    assert outcome(made, f"def grade(sample, item):\n    raise ValueError('x' * {length})") == FAULT
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    made.close()
    assert peak < 48 << 20


@pytest.mark.parametrize("value", ["\ud800", {"a": float("nan")}, "nested"])
def test_rows_and_texts_that_are_no_json_are_a_fault(sandbox, value) -> None:
    if value == "nested":
        value = []
        for _ in range(5000):
            value = [value]
    reading = "def grade(sample, item): return float(item['a'] is not None)"
    assert outcome_of(sandbox, reading, a=value) in {"invalid_variable_error", "1.0"}
    assert outcome(sandbox, HONEST) == "42.0"


def test_a_closed_sandbox_ends_in_a_fault() -> None:
    made = process_sandbox()
    made.close()
    assert outcome(made, HONEST) == "python_grader_server_error"


def test_a_fork_server_that_is_killed_is_replaced(confined) -> None:
    assert outcome(confined, HONEST) == "42.0"
    for server in confined._servers:
        if server._process is not None:
            server._process.kill()
            server._process.wait()
    outcomes = [outcome(confined, HONEST) for _ in range(3)]
    assert outcomes[-1] == "42.0"
    assert set(outcomes) <= {"42.0", "python_grader_server_error"}


def test_a_fork_server_that_is_not_ready_in_time_is_replaced(monkeypatch) -> None:
    process_sandbox().close()
    made = ProcessSandbox(workers=1, seconds=SECONDS, memory_bytes=64 << 20)
    monkeypatch.setattr(process, "_READY_SECONDS", 1e-6)
    with pytest.raises(SandboxUnavailable, match="not become ready"):
        made.start()
    monkeypatch.undo()
    assert outcome(made, HONEST) == "42.0"
    made.close()


def test_a_fork_server_that_cannot_confine_serves_no_call() -> None:
    impossible = ProcessSandbox(workers=1, seconds=SECONDS, memory_bytes=1 << 70)
    assert [outcome(impossible, HONEST) for _ in range(2)] == ["python_grader_server_error"] * 2
    program, control = process._spawn(SECONDS, 1 << 70)
    with control:
        assert control.recv(4096)[1:], "why it cannot"
        assert control.recv(1) == b"", "it has ended"
    assert program.wait() == 0


def test_numpy_is_there_and_sockets_of_python_are_not(confined) -> None:
    source = "import numpy as np\ndef grade(sample, item): return np.float32(np.ones(3).sum())"
    assert confined.grade(source, sample()) == 3
    assert outcome(confined, "import sqlite3\ndef grade(sample, item): return 1") == FAULT


OTHERS = """written = 0
    for descriptor in range(4, 5000):
        try:
            written += os.write(descriptor, b"x")
        except OSError as error:
            assert error.errno == 9, error
    return written"""
CALLING = """
import ctypes
libc = ctypes.CDLL(None)
def grade(sample, item):
    return sum(libc.syscall(ctypes.c_long(number), *(0,) * 6) != -1 for number in item["calls"])
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86_64")
def test_no_system_call_passes_but_those_of_the_list(confined) -> None:
    """Also by their numbers, also by those of the x32 interface, and not by the interface of 32 bits."""
    allowed = {numbers[0] for numbers in _ALLOWED.values()}
    probes = {335, 336}  # the kernel filters none of these two, and kills who calls them outside a probe
    refused = [number for number in range(470) if number not in allowed | probes]
    assert confined.grade(CALLING, sample(calls=refused)) == 0
    x32 = [number | 0x40000000 for number in range(560)]
    assert confined.grade(CALLING, sample(calls=x32)) == 0
    machine_code = """
import ctypes
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
def grade(sample, item):
    page = libc.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0))
    ctypes.memmove(page, bytes.fromhex(item["code"]), len(item["code"]) // 2)
    return ctypes.CFUNCTYPE(ctypes.c_int)(page)() + 1
"""
    assert confined.grade(machine_code, sample(code="31c0c3")) == 1, "xor eax, eax; ret"
    assert outcome_of(confined, machine_code, code="b814000000cd80c3") == FAULT, "getpid by int 0x80"


def outcome_of(sandbox: PythonSandbox, source: str, **item: object) -> str:
    try:
        return str(sandbox.grade(source, sample(**item)))
    except GraderFault as fault:
        return fault.kind


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("os._exit(0)", FAULT),
        ("os.write(3, b'x' * 100_000)", FAULT),
        ('os.write(3, b\'{"value": "NaN"}\')\n    os._exit(0)', FAULT),
        ("os.write(3, b'{\"value\": true}')\n    os._exit(0)", FAULT),
        ("os.write(3, b'{}')\n    os._exit(0)", FAULT),
        ("os.close(3)\n    return 1", FAULT),
        (OTHERS, "0.0"),
        ('os.write(3, b\'{"value": "1"}\')\n    while True: pass', FAULT),
        ("os.write(1, b'x' * 1_000_000)\n    return os.write(2, b'y')", "1.0"),
        ("sys.stdout = sys.stderr = None\n    return 1", "1.0"),
        ("sum(len(os.read(0, 10)) for _ in range(3))\n    return 1", "1.0"),
    ],
)
def test_what_a_source_writes_itself_is_no_way_out(confined, source, found) -> None:
    assert outcome(confined, f"import os, sys\ndef grade(sample, item):\n    {source}") == found
    assert outcome(confined, HONEST) == "42.0"
