"""The environment of processes whose engines run vLLM's second model runner on a CPU."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_RUNNER = "VLLM_USE_V2_MODEL_RUNNER"


def is_second_runner() -> bool:
    """Return whether engines that this process starts run it."""
    return os.environ.get(_RUNNER) == "1"


def second_runner_environment() -> Mapping[str, str]:
    """Return the environment; skip where Triton was not installed."""
    triton = Path(sys.prefix) / "share" / "triton"
    if not (triton / "triton").is_dir():
        pytest.skip(f"no Triton in {triton}: it comes with `make install` on Linux, EXTRAS=cpu,dev")
    path = [str(ROOT / "tests" / "second_runner"), str(triton), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "TRITON_INTERPRET": "1",
        _RUNNER: "1",
        "VLLM_COMPUTE_NANS_IN_LOGITS": "1",  # as the loader sets it on CUDA
    }
