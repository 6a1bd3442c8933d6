"""The blobs contract against memory, local files and a real S3 server."""

import tracemalloc
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mint_common.blobs.open import open_blobs
from mint_common.blobs.port import Blobs
from mint_common.settings import BlobSettings
from mint_common.testing.blobs_contract import BLOBS_CONTRACT, Check
from mint_common.testing.blobs_memory import MemoryBlobs


@pytest.fixture(
    params=["memory", "localfs", pytest.param("s3", marks=pytest.mark.integration)],
)
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Blobs]:
    if request.param == "memory":
        yield MemoryBlobs()
        return
    if request.param == "localfs":
        settings = BlobSettings(url=(tmp_path / "store").as_uri())
    else:
        server = request.getfixturevalue("s3_server")
        settings = BlobSettings(
            url=f"s3://{server.bucket}/{uuid.uuid4()}",
            s3_endpoint=server.endpoint,
            s3_access_key=server.access_key,
            s3_secret_key=server.secret_key,
        )
    store = await open_blobs(settings)
    yield store
    await store.close()


@pytest.mark.parametrize("check", BLOBS_CONTRACT, ids=lambda check: check.__name__)
async def test_blobs_contract(blobs: Blobs, check: Check, tmp_path: Path) -> None:
    folder = tmp_path / "local"
    folder.mkdir()
    await check(blobs, folder)


@pytest.mark.parametrize(
    "blobs", ["localfs", pytest.param("s3", marks=pytest.mark.integration)], indirect=True
)
async def test_a_file_that_is_stored_already_is_compared_in_little_memory(
    blobs: Blobs, tmp_path: Path
) -> None:
    file = tmp_path / "given"
    file.write_bytes(bytes(range(256)) * (64 << 12))
    claim = await blobs.put_file("a/file.bin", file)
    tracemalloc.start()
    try:
        assert await blobs.put_file("a/file.bin", file) == claim
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < claim.size_bytes / 4
