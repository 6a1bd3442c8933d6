"""Adapters in one shared memory: the engine serves from it, and what it drops is used again."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio
from safetensors.torch import load_file

from mint_common.adapters_format import WEIGHTS_FILE, BaseFacts
from mint_common.runtime.clock import SystemClock
from services.loader.adapters.builder.arena import open_arena
from services.loader.adapters.builder.client import Builder, open_builder
from services.loader.adapters.vllm.starting import EngineConfig
from services.loader.core.execution import Execution
from tests.integration.loader.conftest import BASE_DIR, builder_config, quietly, started
from tests.integration.loader.moe_base import (
    SLOTS,
    Served,
    logprobs_under,
    max_difference,
    merged,
    random_adapter,
)

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

TOLERANCE = 1e-4
ROOM = 3
"""Adapters for which the arena has room: fewer than the engine takes."""


@dataclass(frozen=True)
class Shelf:
    """An engine and what it serves from."""

    served: Served
    builder: Builder
    adapter_bytes: int

    @property
    def taken(self) -> list[int]:
        """Return where the loader's ranges begin, in adapters."""
        return sorted(begin // self.adapter_bytes for begin in self.builder._in_arena)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shelf(facts: BaseFacts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shelf]:
    """Start an engine as on CUDA, but for the registration."""
    folder = tmp_path_factory.mktemp("arena")
    config = EngineConfig(
        base_dir=BASE_DIR,
        facts=facts,
        max_context=128,
        slots=SLOTS,
        host_capacity=SLOTS,
        max_sequences=16,
        max_logprobs=5,
        threads=1,
        compile_seconds=5,
        execution=Execution(kv_cache_bytes=32 << 20),
    )
    some = random_adapter(facts, folder / "some", seed=99)
    async with AsyncExitStack() as stack:
        plain = await stack.enter_async_context(open_builder(builder_config(BASE_DIR, folder), SystemClock()))
        laid_out = await plain.lay_out(some)
        path = stack.enter_context(open_arena(ROOM * laid_out.size_bytes))
        own = replace(builder_config(BASE_DIR, folder / "own"), arena=path)
        builder = await stack.enter_async_context(open_builder(own, SystemClock()))
        engine = await stack.enter_async_context(quietly(started(config, builder)))
        await engine.open_arena(path)
        yield Shelf(Served(engine, BASE_DIR, facts), builder, laid_out.size_bytes)


async def assert_right(shelf: Shelf, adapters: list[tuple[Path, object]]) -> None:
    answers = await asyncio.gather(*(shelf.served.sample(one) for _, one in adapters))
    for (folder, _), answer in zip(adapters, answers, strict=True):
        model = merged(BASE_DIR, shelf.served.facts, load_file(folder / WEIGHTS_FILE))
        assert max_difference(logprobs_under(model, [answer]), [answer]) < TOLERANCE


async def test_adapters_lie_side_by_side_and_one_without_room_beside_them(
    shelf: Shelf, tmp_path: Path
) -> None:
    folders = [
        random_adapter(shelf.served.facts, tmp_path / str(seed), seed=seed) for seed in range(ROOM + 1)
    ]
    loaded = [(folder, await shelf.served.load(folder)) for folder in folders]
    assert shelf.taken == [0, 1, 2]
    await assert_right(shelf, loaded)
    await shelf.served.unload_all()
    assert shelf.taken == []


async def test_a_dropped_adapters_place_is_the_next_ones(shelf: Shelf, tmp_path: Path) -> None:
    first, second, third = (
        random_adapter(shelf.served.facts, tmp_path / str(seed), seed=seed) for seed in (11, 12, 13)
    )
    kept = await shelf.served.load(second)
    gone = await shelf.served.load(first)
    assert shelf.taken == [0, 1]
    shelf.served.held.remove(gone)
    await shelf.served.engine.unload(gone.lora_int_id)
    assert shelf.taken == [0]
    after = await shelf.served.load(third)
    assert shelf.taken == [0, 1]
    await assert_right(shelf, [(second, kept), (third, after)])
    await shelf.served.unload_all()


async def test_a_builder_that_ends_takes_nothing_of_it_along(shelf: Shelf, tmp_path: Path) -> None:
    one, other = (random_adapter(shelf.served.facts, tmp_path / str(seed), seed=seed) for seed in (21, 22))
    before = await shelf.served.load(one)
    os.kill(shelf.builder.pid, signal.SIGKILL)
    after = await shelf.served.load(other)
    assert shelf.taken == [0, 1]
    await assert_right(shelf, [(one, before), (other, after)])
    await shelf.served.unload_all()
    assert shelf.taken == []


async def test_bytes_stand_for_a_file_where_workers_cannot_map_one(shelf: Shelf, tmp_path: Path) -> None:
    """As with workers on other machines."""
    folder = random_adapter(shelf.served.facts, tmp_path / "sent", seed=31)
    engine = shelf.served.engine
    engine._sends_bytes = True
    try:
        await assert_right(shelf, [(folder, await shelf.served.load(folder))])
        await shelf.served.unload_all()
    finally:
        engine._sends_bytes = False
