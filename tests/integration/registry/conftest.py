"""A fresh registry for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.registry.rig import RunningRegistry, running, settings_of


@pytest.fixture
async def registry(database: str, nats_url: str, tmp_path: Path) -> AsyncIterator[RunningRegistry]:
    """A running registry with an empty catalog."""
    folder = tmp_path / "blobs"
    async with running(settings_of(dsn=database, nats_url=nats_url, blob_folder=folder), folder) as made:
        yield made
