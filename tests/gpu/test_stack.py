"""The whole stack: trainer and engine share one GPU, or are spread over two."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from e2e.stack import MINT

from tests.gpu.conftest import SHARES

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

ON_TWO = {
    "MINT_TRAINER_RANKS": "2",
    "MINT_TRAINER_SHARDING": "zero3",
    "MINT_LOADER_TENSOR_PARALLEL": "2",
}
"""DeepSpeed's ZeRO-3 and vLLM's tensor parallelism: over NCCL on GPUs, over gloo on CPUs."""


def run_demo(out: Path, device: torch.device, changes: dict[str, str]) -> None:
    """Train, serve and roll back; the demo judges what comes of it itself."""
    environ = {**os.environ, "MINT_TRAINER_DEVICE": device.type, **changes}
    done = subprocess.run(
        [MINT, "demo", "--base", "tiny", "--dtype", "bfloat16", "--out", str(out)],
        env=environ | (SHARES if device.type == "cuda" else {}),
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert all(json.loads((out / "report.json").read_text())["checks"].values())


def test_trainer_and_engine_share_one_device(device: torch.device, stack_folder: Path) -> None:
    run_demo(stack_folder / "one", device, {})


def test_trainer_and_engine_over_two_devices(device: torch.device, stack_folder: Path) -> None:
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip(f"{torch.cuda.device_count()} GPU here, two are needed")
    run_demo(stack_folder / "two", device, ON_TWO)
