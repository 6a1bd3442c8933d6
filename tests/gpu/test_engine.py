"""An engine in bfloat16: adapters beside each other, and under load coming and going."""

import asyncio
from pathlib import Path

import psutil
import pytest
import torch

from mint_common.adapters_format import BaseFacts
from services.loader.adapters.vllm.engine import VllmEngine
from services.loader.adapters.vllm.starting import plan_for_device
from services.loader.app import asked
from services.loader.settings import LoaderSettings
from tests.integration.loader.agreement import (
    BOUNDS,
    agreement,
    assert_as_computed,
    computed,
    is_within,
    mixed_answers,
)
from tests.integration.loader.moe_base import Answer, Served, random_adapter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
]

CHANGES = 12
MEMORY_SLACK = 32 << 20


async def test_what_suits_a_gpu_is_chosen(device: torch.device, narrow_settings: LoaderSettings) -> None:
    free = asked(narrow_settings.model_copy(update={"dtype": "auto", "kv_cache_bytes": None}))
    found = plan_for_device(free, base_dir=narrow_settings.base_dir, threads=1)
    if device.type == "cuda":
        assert (found.dtype, found.eager, found.has_arena, found.kv_cache_bytes) == (
            "bfloat16",
            False,
            True,
            None,
        )
    else:
        assert (found.dtype, found.eager, found.has_arena) == ("float32", True, False)


async def test_two_adapters_and_the_base_in_one_batch_answer_as_peft_computes(
    engine: VllmEngine, facts: BaseFacts, base_dir: Path, tmp_path: Path
) -> None:
    folders = [random_adapter(facts, tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    answers = await mixed_answers(Served(engine, base_dir, facts, number=1000), folders)
    assert_as_computed(base_dir, folders, answers, torch.bfloat16)


async def test_adapters_come_and_go_while_others_answer(
    engine: VllmEngine, facts: BaseFacts, base_dir: Path, tmp_path: Path
) -> None:
    """Each answers as itself from the first token on, and the engine keeps nothing of those that went."""
    served = Served(engine, base_dir, facts, number=2000)
    folders = [random_adapter(facts, tmp_path / str(seed), seed=10 + seed) for seed in range(CHANGES)]
    steady = await served.load(folders[0])
    served.held.remove(steady)  # never the one that makes way
    ended = asyncio.Event()
    background: list[Answer] = []

    async def answer_on() -> None:
        while not ended.is_set():
            background.append(await served.sample(steady, seed=len(background)))

    sampled, memory = [], []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(answer_on())
        for folder in folders[1:]:
            adapter = await served.load(folder, slice_ms=0.5)
            sampled.append(await served.sample(adapter, seed=5))
            await engine.unload(served.held.pop().lora_int_id)
            memory.append(engine_bytes())
        ended.set()
    await engine.unload(steady.lora_int_id)
    assert not await engine._llm.list_loras()
    assert len(background) > 1
    assert_answers(base_dir, folders[0], background)
    for folder, one in zip(folders[1:], sampled, strict=True):
        assert_answers(base_dir, folder, [one])
    middle = len(memory) // 2
    assert max(memory[middle:]) - max(memory[:middle]) < MEMORY_SLACK


def assert_answers(base: Path, folder: Path, answers: list[Answer]) -> None:
    """Check that they are the adapter's; the median of a single answer says little."""
    found = agreement(computed(base, folder, answers, torch.bfloat16), answers)
    bounds = {name: bound for name, bound in BOUNDS[torch.bfloat16].items() if name != "p50"}
    assert is_within(found, bounds), (folder, found)


def engine_bytes() -> int:
    """Return the memory of this process's children, the engine and its builder."""
    return sum(child.memory_info().rss for child in psutil.Process().children(recursive=True))
