"""One revision in engines of two dtypes: each serves what transformers and peft compute in it.

The bounds are those of docs/gpu.md.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import peft
import pytest
import pytest_asyncio
import torch
import transformers

from mint_common.adapters_format import BaseFacts
from mint_common.runtime.clock import SystemClock
from services.loader.adapters.vllm.engine import VllmEngine
from services.loader.app import open_engine
from services.loader.settings import LoaderSettings
from tests.integration.loader.conftest import BASE_DIR, CountedEngine, quietly
from tests.integration.loader.moe_base import (
    Answer,
    Served,
    answer,
    random_adapter,
)

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(400)]

BOUNDS = {
    torch.float32: {"p50": 1e-5, "p99": 1e-4, "kl": 1e-6},
    torch.bfloat16: {"p50": 2e-2, "p99": 0.7, "kl": 1e-2},
}
"""Of the difference of a token's log-probabilities; ``kl``: the mean of r - 1 - log r, r their ratio (k3)."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def narrow_engine(
    engine_settings: LoaderSettings, facts: BaseFacts, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[VllmEngine]:
    """Run an engine in bfloat16, by its setting."""
    folder = tmp_path_factory.mktemp("narrow")
    changes = {"dtype": "bfloat16", "cache_dir": folder, "engine_id": "narrow-0"}
    settings = LoaderSettings.model_validate(engine_settings.model_dump() | changes)
    async with quietly(open_engine(settings, facts, SystemClock())) as (engine, _):
        yield engine


def computed(folder: Path | None, answers: Sequence[Answer], dtype: torch.dtype) -> list[list[float]]:
    """Return the answers' log-probabilities under transformers and peft in a dtype; logits in float32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(BASE_DIR, dtype=dtype)
    if folder is not None:
        model = peft.PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False).to(dtype)
    model.eval()
    found = []
    for one in answers:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*one.prompt, *one.tokens]])).logits[0].float()
        rows, first = logits.log_softmax(-1), len(one.prompt) - 1
        found.append([rows[first + i, token].item() for i, token in enumerate(one.tokens)])
    return found


def agreement(found: list[list[float]], answers: Sequence[Answer]) -> dict[str, float]:
    """Return how far the engine's log-probabilities are from others."""
    theirs = torch.tensor(found).flatten()
    log_ratio = theirs - torch.tensor([one.logprobs for one in answers]).flatten()
    p50, p99 = log_ratio.abs().quantile(torch.tensor([0.5, 0.99])).tolist()
    return {"p50": p50, "p99": p99, "kl": float((log_ratio.exp() - 1 - log_ratio).mean())}


def is_within(found: dict[str, float], bounds: dict[str, float]) -> bool:
    return all(found[name] <= bound for name, bound in bounds.items())


async def test_one_revision_serves_in_both_dtypes_as_each_is_computed(
    shared_engine: CountedEngine, narrow_engine: VllmEngine, facts: BaseFacts, tmp_path: Path
) -> None:
    folders = [random_adapter(facts, tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    sampled = {}
    for engine, dtype in ((shared_engine, torch.float32), (narrow_engine, torch.bfloat16)):
        served = Served(engine, BASE_DIR, facts, number=1000)
        who = [None, *[await served.load(folder) for folder in folders]]
        sampled[dtype] = await asyncio.gather(
            *(answer(engine, one, seed=seed, count=24) for one in who for seed in range(4))
        )
        await served.unload_all()
    for dtype, bounds in BOUNDS.items():
        for at, folder in enumerate((None, *folders)):
            answers = sampled[dtype][4 * at : 4 * at + 4]
            for reference in {dtype, torch.float32}:
                found = agreement(computed(folder, answers, reference), answers)
                assert is_within(found, bounds), (dtype, reference, folder, found)
        wrong = agreement(computed(folders[1], sampled[dtype][4:8], dtype), sampled[dtype][4:8])
        assert not is_within(wrong, bounds), "another adapter shows through the rounding"


async def test_a_narrow_engine_keeps_half_the_bytes(
    narrow_engine: VllmEngine, shared_engine: CountedEngine, facts: BaseFacts, tmp_path: Path
) -> None:
    folder = random_adapter(facts, tmp_path / "a", seed=3)
    wide, narrow = [await engine._builder.lay_out(folder) for engine in (shared_engine, narrow_engine)]
    assert 2 * narrow.size_bytes == wide.size_bytes
    shared_engine._builder.release(wide)
    narrow_engine._builder.release(narrow)
