"""Regression tests on a GPU for the findings of the CUDA audit; each test is named after its finding.

With `--device cpu` sizes are small and what only CUDA does is left out.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import torch

from mint_common.adapters_format import BASE_FILE, BaseFacts
from mint_common.generation import SampleRequest, Sampling
from mint_common.ids import TenantId
from mint_common.runtime.clock import SystemClock
from services.loader.adapters.vllm.engine import VllmEngine
from services.loader.app import open_engine
from services.loader.settings import LoaderSettings
from services.trainer.adapters.model.placing import place
from services.trainer.adapters.model.resident_base import ResidentBase, load_base
from services.trainer.core.batch import Row
from services.trainer.core.packing import pack_rows
from services.trainer.core.ranks import ALONE
from tests.gpu.test_trainer import policies_of
from tests.integration.loader.conftest import quietly
from tests.integration.loader.moe_base import Served, random_adapter
from tests.unit.trainer.families import describe_family
from tests.unit.trainer.test_dtypes import learn
from tools.make_moe_base import make_moe_base

pytestmark = [pytest.mark.gpu, pytest.mark.engine, pytest.mark.timeout(900)]

VOCABULARY, LINE = 151_936, 8192
GB = 10**9


@asynccontextmanager
async def running(settings: LoaderSettings, facts: BaseFacts, **changes: object) -> AsyncIterator[VllmEngine]:
    """Run an engine with some settings changed."""
    changed = LoaderSettings.model_validate(settings.model_dump() | changes)
    async with quietly(open_engine(changed, facts, SystemClock())) as (engine, _):
        yield engine


def large_head(device: torch.device, folder: Path) -> ResidentBase:
    """Load a small bfloat16 base with Qwen3's vocabulary and a context of 8,192 tokens."""
    sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": LINE, "hidden_size": 256, "head_dim": 64}
    facts = describe_family("Qwen3", folder, **sizes)
    (folder / BASE_FILE).write_bytes(msgspec.json.encode(facts))
    placement = place(
        device=device.type, dtype="bfloat16", checkpointing="auto", memory_share=None, process=ALONE
    )
    return load_base(folder, placement)


def test_c5_a_long_line_trains_at_a_large_vocabulary(device: torch.device, tmp_path: Path) -> None:
    """All logits of the line are 5 GB in float32, and four copies were alive together."""
    base = large_head(device, tmp_path)
    targets = LINE - 8 if device.type == "cuda" else 600
    row = Row(prompt=(3,) * 8, tokens=(5, 6) * (targets // 2), logprobs=(), advantage=1.0)
    (policy,) = policies_of(base, 1)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    learn(base, pack_rows([row], policy=0, max_length=0), [policy])
    assert bool(policy.leaf.grad.isfinite().all())
    if device.type == "cuda":
        free = base.free_bytes or 0
        assert torch.cuda.max_memory_allocated(device) - before < 0.75 * (free + before)


def test_w4_a_full_micro_batch_fits(device: torch.device, tmp_path: Path) -> None:
    """The estimate was half of what a pass keeps."""
    base = large_head(device, tmp_path)
    tokens = min(base.microbatch_tokens, 65_536 if device.type == "cuda" else 1024)
    rows = [
        Row(prompt=(3,) * 500, tokens=(5, 6) * 6, logprobs=(), advantage=1.0) for _ in range(tokens // 512)
    ]
    (policy,) = policies_of(base, 1)
    learn(base, pack_rows(rows, policy=0, max_length=0), [policy])
    assert bool(policy.leaf.grad.isfinite().all())


def test_s3_a_step_waits_for_no_device(device: torch.device, tmp_path: Path) -> None:
    """torch raises for a synchronization between the lines of one policy's forward pass."""
    base = large_head(device, tmp_path)
    rows = [Row(prompt=(3, 4), tokens=(5, 6), logprobs=(), advantage=1.0)]
    policies = policies_of(base, 2)
    lines = [line for number in range(2) for line in pack_rows(rows, policy=number, max_length=0)]
    learn(base, lines, policies)  # what is made at first use
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(base), "logits_targets", 1024)  # reads the free memory
        scored = base.score(lines, policies)
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            scored.logprobs_T.sum().backward()
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def kept_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what vLLM compiles in a folder of the test's own."""
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "vllm"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    return tmp_path / "vllm"


async def test_s1_a_restarted_engine_compiles_nothing(
    device: torch.device, narrow_settings: LoaderSettings, facts: BaseFacts, kept_cache: Path
) -> None:
    """Each start had a folder of its own."""
    folders, seconds = [], []
    for _ in range(2):
        began = time.monotonic()
        async with running(narrow_settings, facts):
            seconds.append(time.monotonic() - began)
        folders.append({each.name for each in (kept_cache / "torch_compile_cache").glob("*")})
    assert folders[0] == folders[1]
    if device.type == "cuda":
        assert len(folders[0]) == 1
        assert seconds[1] < seconds[0]


async def test_s3_processed_log_probabilities_cost_no_synchronization(
    narrow_settings: LoaderSettings, facts: BaseFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM raises in the engine for a synchronization within a step, and the request would fail."""
    monkeypatch.setitem(os.environ, "VLLM_GPU_SYNC_CHECK", "error")
    sampling = Sampling(max_new_tokens=8, temperature=0.5, seed=1, ignore_eos=True)
    asked = SampleRequest(
        request_id="one",
        tenant_id=TenantId("t"),
        revision=None,
        tokens=(5, 6, 7),
        sampling=sampling,
        logprobs_mode="processed",
    )
    async with running(narrow_settings, facts) as engine:
        sampled = await engine.sample(asked, request_id="one", adapter=None)
    assert len(sampled.sequences) == 1


async def test_w3_steps_stay_short_while_a_large_adapter_loads(
    device: torch.device, narrow_settings: LoaderSettings, tmp_path: Path
) -> None:
    """A slice was as long as enqueuing its copies, which then held the steps' stream many times longer."""
    layers, experts, width = (8, 128, 768) if device.type == "cuda" else (2, 8, 64)
    base = tmp_path / "base"
    facts = make_moe_base(base, experts=experts, layers=layers, expert_width=width)
    folder = random_adapter(facts, tmp_path / "large", seed=1)
    changes = {"base_dir": base, "host_bytes": 4 * GB if device.type == "cuda" else 64 << 20}
    async with running(narrow_settings, facts, **changes) as engine:
        served = Served(engine, base, facts)
        quiet = await gaps(engine)
        loading = asyncio.create_task(served.load(folder, slice_ms=2.0))
        beside = await gaps(engine)
        await loading
        await served.unload_all()
    if device.type == "cuda":
        assert max(beside) < max(quiet) + 0.02, "a slice of 2 ms, with slack for its last module"


async def gaps(engine: VllmEngine) -> list[float]:
    """Return the seconds between the tokens of a stream."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input

    params = SamplingParams(max_tokens=150, temperature=1.0, ignore_eos=True)
    name = f"stream-{time.monotonic_ns()}"
    times = [time.monotonic() async for _ in engine._llm.generate(tokens_input([5, 6]), params, name)]
    return [after - before for before, after in pairwise(times[5:])]
