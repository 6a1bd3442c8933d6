"""A fresh registry for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from contract.schemas import empty_schema

from tests.integration.registry.rig import RunningRegistry, running, settings_of


@pytest.fixture
async def registry(shared_database: str, nats_url: str, tmp_path: Path) -> AsyncIterator[RunningRegistry]:
    """A running registry with an empty catalog."""
    folder = tmp_path / "blobs"
    settings = settings_of(dsn=shared_database, nats_url=nats_url, blob_folder=folder)
    async with empty_schema(shared_database, "registry"), running(settings, folder) as made:
        yield made
