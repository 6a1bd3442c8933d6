"""One engine over a base of 8 experts, which ends with the tests of this folder."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.integration.loader.moe_base import Served, running_engine
from tools.make_moe_base import make_moe_base


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def engine_with_experts(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    """Start the engine."""
    assert isinstance(request.node, pytest.Package), "without an __init__.py it would be the whole session"
    base = tmp_path_factory.mktemp("experts")
    facts = make_moe_base(base, experts=8)
    async with running_engine(base, facts, max_context=256) as engine:
        yield Served(engine, base, facts)


@pytest_asyncio.fixture(loop_scope="session")
async def served(engine_with_experts: Served) -> AsyncIterator[Served]:
    """Lend the engine, and empty it."""
    yield engine_with_experts
    await engine_with_experts.unload_all()
