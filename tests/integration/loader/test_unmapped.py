"""An adapter of a shape that the engine knows is mapped by the call that gives it a slot."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mint_common.adapters_format import BaseFacts
from services.loader.adapters.builder.client import Builder
from services.loader.adapters.vllm.engine import VllmEngine
from services.loader.ports import LoadedAdapter
from tests.integration.loader.conftest import CountedEngine
from tests.integration.loader.test_builder import Shop, loaded_by_vllm, logprobs, open_shop

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(400)]


@pytest_asyncio.fixture(loop_scope="session")
async def shop(facts: BaseFacts, tmp_path: Path) -> AsyncIterator[Shop]:
    """Run a builder."""
    async with open_shop(facts, tmp_path, silence_seconds=60.0) as shop:
        yield shop


class Calls(VllmEngine):
    """Notes what is asked of the workers."""

    def __init__(self, llm: Any, builder: Builder) -> None:
        super().__init__(llm, builder, compile_seconds=5)
        self.calls: list[str] = []

    async def _call(self, method: str, *args: object) -> Any:
        self.calls.append(method)
        return await super()._call(method, *args)


async def _staged(shop: Shop, engine: VllmEngine, number: int) -> LoadedAdapter:
    folder = (await shop.builder.stage(await shop.revision(number))).folder
    adapter = LoadedAdapter(digest=f"sha256:{number}", number=number, folder=folder)
    await engine.stage(adapter)
    return adapter


async def _held(shop: Shop) -> int:
    """Return how many adapters the builder holds."""
    await shop.builder.stage(await shop.revision(1))  # answered after all releases were heard
    descriptors = Path(f"/proc/{shop.builder.pid}/fd").iterdir()
    return sum("mint-adapter" in str(each.readlink()) for each in descriptors)


async def test_an_adapter_of_a_known_shape_gets_its_slot_by_one_call(
    shop: Shop, shared_engine: CountedEngine
) -> None:
    engine = Calls(shared_engine._llm, shop.builder)
    adapters = [await _staged(shop, engine, number) for number in (9201, 9202)]
    assert engine.calls == ["mint_enter"], "the first one may be of a shape that the engine refuses"
    assert await _held(shop) == 1
    engine.calls.clear()
    for adapter in adapters:
        assert (await engine.activate(adapter, victim=None, slice_ms=1e9)).done
    assert engine.calls == ["mint_activate"] * 2
    assert await _held(shop) == 0
    mapped = await logprobs(engine, adapters[1])
    for number in (9201, 9202):
        await engine.unload(number)
    again = await loaded_by_vllm(engine, adapters[1].folder, number=9203)
    assert await logprobs(engine, again) == mapped
    await engine.unload(9203)


async def test_an_adapter_that_is_dropped_before_it_is_mapped_is_let_go_of(
    shop: Shop, shared_engine: CountedEngine
) -> None:
    engine = Calls(shared_engine._llm, shop.builder)
    for number in (9211, 9212):
        await _staged(shop, engine, number)
    assert await _held(shop) == 1
    await engine.unload(9212)
    assert await _held(shop) == 0
    assert {9211, 9212} & set(await engine.residents()) == {9211}
    await engine.unload(9211)


async def test_small_victims_leave_with_the_call_that_gives_their_successor_a_slot(
    shop: Shop, shared_engine: CountedEngine
) -> None:
    engine = Calls(shared_engine._llm, shop.builder)
    victim, first, second = [await _staged(shop, engine, number) for number in (9241, 9242, 9243)]
    for adapter in (victim, first):  # the engine has two slots
        assert (await engine.activate(adapter, victim=None, slice_ms=1e9)).done
    await engine.unload(second.number)
    engine.calls.clear()
    await engine.stage(second, victims=[victim.number])
    assert engine.calls == []
    assert (await engine.activate(second, victim=None, slice_ms=1e9)).done
    assert engine.calls == ["mint_activate"]
    assert set(await shared_engine._llm.list_loras()) == {first.number, second.number}
    for adapter in (first, second):
        await engine.unload(adapter.number)


@pytest.mark.parametrize("bound", ["_LEAVING_BYTES", "_MAX_LEAVING"])
async def test_large_or_many_victims_leave_at_once(
    bound: str, shop: Shop, shared_engine: CountedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"services.loader.adapters.vllm.engine.{bound}", 0)
    engine = Calls(shared_engine._llm, shop.builder)
    victim, successor = [await _staged(shop, engine, number) for number in (9251, 9252)]
    assert (await engine.activate(victim, victim=None, slice_ms=1e9)).done
    await engine.unload(successor.number)
    await engine.stage(successor, victims=[victim.number])
    assert not await shared_engine._llm.list_loras()
    await engine.unload(successor.number)


async def test_what_the_engine_has_is_told_without_those_that_leave(
    shop: Shop, shared_engine: CountedEngine
) -> None:
    engine = Calls(shared_engine._llm, shop.builder)
    victim, successor = [await _staged(shop, engine, number) for number in (9261, 9262)]
    assert (await engine.activate(victim, victim=None, slice_ms=1e9)).done
    await engine.unload(successor.number)
    await engine.stage(successor, victims=[victim.number])
    assert set(await engine.residents()) == {successor.number}
    await engine.unload(successor.number)


async def test_only_so_many_adapters_wait_to_be_mapped(
    shop: Shop, shared_engine: CountedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.loader.adapters.vllm.engine._MAX_UNMAPPED", 1)
    engine = Calls(shared_engine._llm, shop.builder)
    for number in (9221, 9222, 9223):
        await _staged(shop, engine, number)
    assert engine.calls == ["mint_enter"] * 2
    assert await _held(shop) == 1
    for number in (9221, 9222, 9223):
        await engine.unload(number)


async def test_what_was_lost_with_its_builder_is_laid_out_again_for_a_slot_and_else_reported_lost(
    shop: Shop, shared_engine: CountedEngine
) -> None:
    engine = Calls(shared_engine._llm, shop.builder)
    adapters = [await _staged(shop, engine, number) for number in (9231, 9232, 9233)]
    await shop.kill()
    assert (await engine.activate(adapters[1], victim=adapters[0], slice_ms=1e9)).done
    found = await engine.residents()
    assert {number for number in found if number >= 9231} == {9231, 9232}
    assert found[9232]
    assert await _held(shop) == 0
    for number in (9231, 9232):
        await engine.unload(number)
