"""What every blob store must do: in memory, in local files and on a real S3 server."""

import asyncio
import tracemalloc
import uuid
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from pathlib import Path

import pytest

from mint_common.blobs.marker import mark
from mint_common.blobs.open import open_blobs
from mint_common.blobs.port import Blobs
from mint_common.claims import Claim
from mint_common.errors import AlreadyExists, BlobCorrupt, BlobMissing, InvalidField, MintError
from mint_common.ids import sha256_digest
from mint_common.settings import BlobSettings
from tests.testing.blobs_memory import MemoryBlobs

BAD_KEYS = (
    *("", "/", "/etc/passwd", "a/", "a//b", ".", "..", "../a", "a/../b", "a/..", "./a", "a/./b"),
    *("a\\b", "a b", "a\0b", "a\nb", "a%2e", "ü", "~a", "a?b", "a*", "C:", "x" * 201, "x/" * 600 + "x"),
)
BAD_PREFIXES = ("/", "../", "a/../", "a//", "./", "a b", "a\0", "a/%")


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
    await mark(store)
    yield store
    await store.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder outside the store."""
    made = tmp_path / "local"
    made.mkdir()
    return made


async def test_bytes_come_back_under_their_claim(blobs: Blobs, folder: Path) -> None:
    """`put` returns the proof of what it stored."""
    data = bytes(range(256)) * 1000
    claim = await blobs.put("a/b.bin", data)
    assert claim == Claim(uri="a/b.bin", sha256=sha256_digest(data)[7:], size_bytes=len(data))
    assert await blobs.get(claim) == data
    await blobs.fetch(claim, folder / "new" / "copy.bin")
    assert (folder / "new" / "copy.bin").read_bytes() == data


async def test_a_file_is_put_like_its_bytes(blobs: Blobs, folder: Path) -> None:
    """`put_file` never overwrites either, and its claim is that of the bytes."""
    file, data = folder / "given", bytes(range(256)) * 10_000
    file.write_bytes(data)
    claim = await blobs.put_file("a/file.bin", file)
    assert claim == await blobs.put_new("a/file.bin", data)
    assert await blobs.put_file("a/file.bin", file) == claim
    assert await blobs.get(claim) == data
    file.write_bytes(b"other")
    await _refuses(AlreadyExists, blobs.put_file("a/file.bin", file))
    await _refuses(InvalidField, blobs.put_file("../out", file))


async def test_ranges_are_parts_of_the_whole(blobs: Blobs) -> None:
    """Any part within the claim can be read; the size of the whole is checked, and its absence told."""
    data = bytes(range(256)) * 10_000
    claim = await blobs.put("a/b.bin", data)
    for start, size in ((0, 1), (0, len(data)), (1_000_000, 300_001), (len(data) - 1, 1)):
        assert await blobs.get_range(claim, start=start, size=size) == data[start : start + size]
    for start, size in ((-1, 2), (0, 0), (0, -1), (0, len(data) + 1), (len(data), 1)):
        await _refuses(InvalidField, blobs.get_range(claim, start=start, size=size))
    for other in (1, len(data) - 1, len(data) + 1, 2 * len(data)):
        bad = replace(claim, size_bytes=other)
        await _refuses(BlobCorrupt, blobs.get_range(bad, start=other - 1, size=1))
        await _refuses(BlobCorrupt, blobs.get_range(bad, start=0, size=1))
    await _refuses(BlobMissing, blobs.get_range(replace(claim, uri="a/none"), start=0, size=1))
    await _refuses(InvalidField, blobs.get_range(replace(claim, uri="../a"), start=0, size=1))


async def test_an_empty_blob_is_a_blob(blobs: Blobs, folder: Path) -> None:
    """No bytes are bytes too."""
    claim = await blobs.put("empty", b"")
    assert await _keys(blobs, "empty") == ["empty"]
    assert await blobs.get(claim) == b""
    await blobs.fetch(claim, folder / "empty")
    assert (folder / "empty").read_bytes() == b""


async def test_put_replaces(blobs: Blobs) -> None:
    """The last `put` wins, and the claim of the first is corrupt from then on."""
    old = await blobs.put("key", b"old")
    new = await blobs.put("key", b"new")
    assert await blobs.get(new) == b"new"
    await _refuses(BlobCorrupt, blobs.get(old))


async def test_put_new_never_overwrites(blobs: Blobs) -> None:
    """Equal bytes are welcome again, others are not."""
    claim = await blobs.put_new("key", b"first")
    assert await blobs.put_new("key", b"first") == claim
    await _refuses(AlreadyExists, blobs.put_new("key", b"other"))
    await _refuses(AlreadyExists, blobs.put_new("key", b""))
    assert await blobs.get(claim) == b"first"


async def test_one_of_racing_writers_wins(blobs: Blobs) -> None:
    """Of many `put_new` of different bytes exactly one succeeds, and its bytes stay."""
    bodies = [bytes([number]) * 50_000 for number in range(16)]
    tries = await asyncio.gather(*(blobs.put_new("race", body) for body in bodies), return_exceptions=True)
    winners = [claim for claim in tries if isinstance(claim, Claim)]
    losers = [error for error in tries if isinstance(error, AlreadyExists)]
    assert (len(winners), len(losers)) == (1, 15), tries
    assert await blobs.get(winners[0]) in bodies


async def test_racing_writers_of_equal_bytes_all_win(blobs: Blobs) -> None:
    """A repeated export is no conflict."""
    claims = await asyncio.gather(*(blobs.put_new("race", b"same") for _ in range(8)))
    assert len(set(claims)) == 1


async def test_a_missing_blob_is_missing(blobs: Blobs, folder: Path) -> None:
    """Absence is an error of its own, and leaves no file."""
    await blobs.put("there/x", b"x")
    for uri in ("nowhere", "there", "there/y", "there/x/y"):
        claim = Claim(uri=uri, sha256="0" * 64, size_bytes=1)
        assert uri not in await _keys(blobs, "")
        await _refuses(BlobMissing, blobs.get(claim))
        await _refuses(BlobMissing, blobs.fetch(claim, folder / "none"))
    assert not list(folder.glob("none*"))


async def test_a_wrong_claim_is_corrupt(blobs: Blobs, folder: Path) -> None:
    """Hash and size are both checked, and nothing unchecked appears at the target."""
    claim = await blobs.put("key", b"12345")
    (folder / "target").write_bytes(b"before")
    wrong = (
        replace(claim, sha256="0" * 64),
        replace(claim, size_bytes=4),
        replace(claim, size_bytes=6),
        replace(claim, size_bytes=0),
    )
    for bad in wrong:
        await _refuses(BlobCorrupt, blobs.get(bad))
        await _refuses(BlobCorrupt, blobs.fetch(bad, folder / "target"))
    assert (folder / "target").read_bytes() == b"before"
    assert [path.name for path in folder.iterdir()] == ["target"]


async def test_fetch_replaces_the_target(blobs: Blobs, folder: Path) -> None:
    """A later fetch to the same path leaves the later bytes and nothing else."""
    first, second = await blobs.put("one", b"1" * 3_000_000), await blobs.put("two", b"2")
    await blobs.fetch(first, folder / "target")
    await blobs.fetch(second, folder / "target")
    assert [path.name for path in folder.iterdir()] == ["target"]
    assert (folder / "target").read_bytes() == b"2"


async def test_delete_is_idempotent(blobs: Blobs) -> None:
    """A deleted key is free again."""
    await blobs.delete("a/never")
    claim = await blobs.put_new("a/key", b"1")
    await blobs.delete("a/key")
    await blobs.delete("a/key")
    assert await _keys(blobs, "a/key") == []
    await _refuses(BlobMissing, blobs.get(claim))
    await blobs.put_new("a/key", b"2")


async def test_list_is_ordered_and_exact(blobs: Blobs) -> None:
    """Keys come in the order of their characters; a prefix may end inside a part."""
    keys = ["a", "b-1/x", "b.1/x", "b/1", "b/10", "b/2/deep/er", "b0/x", "bb/x", "Z/z", "_", "c/..d"]
    for key in keys:
        await blobs.put(key, b".")
    assert await _keys(blobs, "") == sorted(keys)
    for prefix in ("b", "b/", "b/1", "b/2/", "b/2/deep/e", "b-", "nothing", "no/thing", "a/"):
        assert await _keys(blobs, prefix) == sorted(key for key in keys if key.startswith(prefix)), prefix


async def test_bad_keys_are_refused(blobs: Blobs, folder: Path) -> None:
    """A key that could mean another place never reaches the store."""
    for key in BAD_KEYS:
        claim = Claim(uri=key, sha256="0" * 64, size_bytes=0)
        await _refuses(InvalidField, blobs.put(key, b""))
        await _refuses(InvalidField, blobs.put_new(key, b""))
        await _refuses(InvalidField, blobs.get(claim))
        await _refuses(InvalidField, blobs.fetch(claim, folder / "new" / "x"))
        await _refuses(InvalidField, blobs.delete(key))
    for prefix in BAD_PREFIXES:
        await _refuses(InvalidField, _keys(blobs, prefix))
    assert await _keys(blobs, "") == []
    assert not (folder / "new").exists()


async def test_many_callers_at_once(blobs: Blobs, folder: Path) -> None:
    """A store is safe for concurrent use."""

    async def round_trip(number: int) -> None:
        data = number.to_bytes(4, "big") * 25_000
        claim = await blobs.put(f"many/{number:03}", data)
        assert await blobs.get(claim) == data
        await blobs.fetch(claim, folder / str(number))
        assert (folder / str(number)).read_bytes() == data

    await asyncio.gather(*(round_trip(number) for number in range(40)))
    assert len(await _keys(blobs, "many/")) == 40


async def test_close_is_idempotent(blobs: Blobs) -> None:
    """Closing twice is closing once."""
    await blobs.close()
    await blobs.close()


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


async def _keys(blobs: Blobs, prefix: str) -> list[str]:
    return [key async for key in blobs.list(prefix)]


async def _refuses(kind: type[MintError], call: Awaitable[object]) -> None:
    with pytest.raises(kind):
        await call
