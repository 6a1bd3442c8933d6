"""The loader's tests again on vLLM's second model runner with asynchronous scheduling, CUDA's defaults.

Kernels are computed by Triton's interpreter, so this shows their results and vLLM's control flow, not speed.
"""

import subprocess
import sys

import pytest

from tests.testing.second_runner import ROOT, second_runner_environment

pytestmark = [pytest.mark.engine, pytest.mark.timeout(2400)]

DENSE = ("test_lora_kernels.py", "test_parity.py::test_base_and_two_adapters_in_one_batch_agree_with_peft")
EXPERTS = ("experts/test_routes.py",)
"""A start of an engine each; every run of the tests has one of them."""
FILES = (
    "test_parity.py",
    "test_samples.py",
    "test_apis.py",
    "test_structures.py",
    "test_fair_scheduler.py",
    "test_non_finite.py",
    "test_staging_engine.py",
    "experts/test_moe.py",
)


def run(*tests: str) -> None:
    """Run tests in a process of their own, whose vLLM is changed as it is imported."""
    named = [f"tests/integration/loader/{each}" for each in tests]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow"]
    run = subprocess.run(
        [*command, "--timeout", "1200", *named],
        cwd=ROOT,
        env=second_runner_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:]
    assert " passed" in run.stdout


@pytest.mark.parametrize(
    "tests", [pytest.param(DENSE, marks=pytest.mark.slow, id="dense"), pytest.param(EXPERTS, id="experts")]
)
def test_kernels_mixed_adapters_and_routes(tests: tuple[str, ...]) -> None:
    run(*tests)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_a_whole_file(file: str) -> None:
    run(file)
