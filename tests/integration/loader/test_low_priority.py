"""The builder's process gives way to the engine's."""

from pathlib import Path

import pytest

from mint_common.adapters_format import BaseFacts
from tests.integration.loader.test_builder import open_shop
from tests.processes import gives_way

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]


async def test_the_builder_gives_way_to_the_engine(facts: BaseFacts, tmp_path: Path) -> None:
    async with open_shop(facts, tmp_path, silence_seconds=60.0) as shop:
        await shop.builder.stage(await shop.revision(1))
        assert gives_way(shop.builder.pid)
