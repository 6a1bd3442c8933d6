"""The catalog for its contract suites."""

from collections.abc import AsyncIterator

import pytest
from contract.catalog_rig import Store, open_store


@pytest.fixture
async def store(shared_database: str) -> AsyncIterator[Store]:
    """A catalog that holds two tenants and a base."""
    async with open_store(shared_database) as made:
        yield made
