"""One revision in engines of two dtypes: each serves what transformers and peft compute in it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from mint_common.adapters_format import BaseFacts
from mint_common.runtime.clock import SystemClock
from services.loader.adapters.vllm.engine import VllmEngine
from services.loader.app import open_engine
from services.loader.settings import LoaderSettings
from tests.integration.loader.agreement import assert_as_computed, mixed_answers
from tests.integration.loader.conftest import BASE_DIR, CountedEngine, quietly
from tests.integration.loader.moe_base import Served, random_adapter

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(400)]


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


async def test_one_revision_serves_in_both_dtypes_as_each_is_computed(
    shared_engine: CountedEngine, narrow_engine: VllmEngine, facts: BaseFacts, tmp_path: Path
) -> None:
    folders = [random_adapter(facts, tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    for engine, dtype in ((shared_engine, torch.float32), (narrow_engine, torch.bfloat16)):
        answers = await mixed_answers(Served(engine, BASE_DIR, facts, number=1000), folders)
        assert_as_computed(BASE_DIR, folders, answers, dtype)


async def test_a_narrow_engine_keeps_half_the_bytes(
    narrow_engine: VllmEngine, shared_engine: CountedEngine, facts: BaseFacts, tmp_path: Path
) -> None:
    folder = random_adapter(facts, tmp_path / "a", seed=3)
    wide, narrow = [await engine._builder.lay_out(folder) for engine in (shared_engine, narrow_engine)]
    assert 2 * narrow.size_bytes == wide.size_bytes
    shared_engine._builder.release(wide)
    narrow_engine._builder.release(narrow)
