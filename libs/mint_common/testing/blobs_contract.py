"""What every blob store must do, as functions: run each of `BLOBS_CONTRACT` against a fresh, empty store."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from mint_common.blobs.port import Blobs
from mint_common.claims import Claim
from mint_common.errors import AlreadyExists, BlobCorrupt, BlobMissing, InvalidField, MintError
from mint_common.ids import sha256_digest

Check = Callable[[Blobs, Path], Awaitable[None]]

BAD_KEYS = (
    *("", "/", "/etc/passwd", "a/", "a//b", ".", "..", "../a", "a/../b", "a/..", "./a", "a/./b"),
    *("a\\b", "a b", "a\0b", "a\nb", "a%2e", "ü", "~a", "a?b", "a*", "C:", "x" * 201, "x/" * 600 + "x"),
)
BAD_PREFIXES = ("/", "../", "a/../", "a//", "./", "a b", "a\0", "a/%")


async def bytes_come_back_under_their_claim(blobs: Blobs, folder: Path) -> None:
    """`put` returns the proof of what it stored."""
    data = bytes(range(256)) * 1000
    claim = await blobs.put("a/b.bin", data)
    assert claim == Claim(uri="a/b.bin", sha256=sha256_digest(data)[7:], size_bytes=len(data))
    assert await blobs.get(claim) == data
    await blobs.fetch(claim, folder / "new" / "copy.bin")
    assert (folder / "new" / "copy.bin").read_bytes() == data


async def a_file_is_put_like_its_bytes(blobs: Blobs, folder: Path) -> None:
    """`put_file` never overwrites either, and its claim is that of the bytes."""
    file, data = folder / "given", bytes(range(256)) * 10_000
    file.write_bytes(data)
    claim = await blobs.put_file("a/file.bin", file)
    assert claim == await blobs.put_new("a/file.bin", data)
    assert await blobs.put_file("a/file.bin", file) == claim
    assert await blobs.get(claim) == data
    file.write_bytes(b"other")
    await _raises(AlreadyExists, blobs.put_file("a/file.bin", file))
    await _raises(InvalidField, blobs.put_file("../out", file))


async def ranges_are_parts_of_the_whole(blobs: Blobs, folder: Path) -> None:
    """Any part within the claim can be read; the size of the whole is checked, and its absence told."""
    data = bytes(range(256)) * 10_000
    claim = await blobs.put("a/b.bin", data)
    for start, size in ((0, 1), (0, len(data)), (1_000_000, 300_001), (len(data) - 1, 1)):
        assert await blobs.get_range(claim, start=start, size=size) == data[start : start + size]
    for start, size in ((-1, 2), (0, 0), (0, -1), (0, len(data) + 1), (len(data), 1)):
        await _raises(InvalidField, blobs.get_range(claim, start=start, size=size))
    for other in (1, len(data) - 1, len(data) + 1, 2 * len(data)):
        bad = replace(claim, size_bytes=other)
        await _raises(BlobCorrupt, blobs.get_range(bad, start=other - 1, size=1))
        await _raises(BlobCorrupt, blobs.get_range(bad, start=0, size=1))
    await _raises(BlobMissing, blobs.get_range(replace(claim, uri="a/none"), start=0, size=1))
    await _raises(InvalidField, blobs.get_range(replace(claim, uri="../a"), start=0, size=1))


async def an_empty_blob_is_a_blob(blobs: Blobs, folder: Path) -> None:
    """No bytes are bytes too."""
    claim = await blobs.put("empty", b"")
    assert await blobs.exists("empty")
    assert await blobs.get(claim) == b""
    await blobs.fetch(claim, folder / "empty")
    assert (folder / "empty").read_bytes() == b""


async def put_replaces(blobs: Blobs, folder: Path) -> None:
    """The last `put` wins, and the claim of the first is corrupt from then on."""
    old = await blobs.put("key", b"old")
    new = await blobs.put("key", b"new")
    assert await blobs.get(new) == b"new"
    await _raises(BlobCorrupt, blobs.get(old))


async def put_new_never_overwrites(blobs: Blobs, folder: Path) -> None:
    """Equal bytes are welcome again, others are not."""
    claim = await blobs.put_new("key", b"first")
    assert await blobs.put_new("key", b"first") == claim
    await _raises(AlreadyExists, blobs.put_new("key", b"other"))
    await _raises(AlreadyExists, blobs.put_new("key", b""))
    assert await blobs.get(claim) == b"first"


async def one_of_racing_writers_wins(blobs: Blobs, folder: Path) -> None:
    """Of many `put_new` of different bytes exactly one succeeds, and its bytes stay."""
    bodies = [bytes([number]) * 50_000 for number in range(16)]
    tries = await asyncio.gather(*(blobs.put_new("race", body) for body in bodies), return_exceptions=True)
    winners = [claim for claim in tries if isinstance(claim, Claim)]
    losers = [error for error in tries if isinstance(error, AlreadyExists)]
    assert (len(winners), len(losers)) == (1, 15), tries
    assert await blobs.get(winners[0]) in bodies


async def racing_writers_of_equal_bytes_all_win(blobs: Blobs, folder: Path) -> None:
    """A repeated export is no conflict."""
    claims = await asyncio.gather(*(blobs.put_new("race", b"same") for _ in range(8)))
    assert len(set(claims)) == 1


async def a_missing_blob_is_missing(blobs: Blobs, folder: Path) -> None:
    """Absence is an error of its own, and leaves no file."""
    await blobs.put("there/x", b"x")
    for uri in ("nowhere", "there", "there/y", "there/x/y"):
        claim = Claim(uri=uri, sha256="0" * 64, size_bytes=1)
        assert not await blobs.exists(uri)
        await _raises(BlobMissing, blobs.get(claim))
        await _raises(BlobMissing, blobs.fetch(claim, folder / "none"))
    assert not list(folder.glob("none*"))


async def a_wrong_claim_is_corrupt(blobs: Blobs, folder: Path) -> None:
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
        await _raises(BlobCorrupt, blobs.get(bad))
        await _raises(BlobCorrupt, blobs.fetch(bad, folder / "target"))
    assert (folder / "target").read_bytes() == b"before"
    assert [path.name for path in folder.iterdir()] == ["target"]


async def fetch_replaces_the_target(blobs: Blobs, folder: Path) -> None:
    """A later fetch to the same path leaves the later bytes and nothing else."""
    first, second = await blobs.put("one", b"1" * 3_000_000), await blobs.put("two", b"2")
    await blobs.fetch(first, folder / "target")
    await blobs.fetch(second, folder / "target")
    assert [path.name for path in folder.iterdir()] == ["target"]
    assert (folder / "target").read_bytes() == b"2"


async def delete_is_idempotent(blobs: Blobs, folder: Path) -> None:
    """A deleted key is free again."""
    await blobs.delete("a/never")
    claim = await blobs.put_new("a/key", b"1")
    await blobs.delete("a/key")
    await blobs.delete("a/key")
    assert not await blobs.exists("a/key")
    await _raises(BlobMissing, blobs.get(claim))
    await blobs.put_new("a/key", b"2")


async def list_is_ordered_and_exact(blobs: Blobs, folder: Path) -> None:
    """Keys come in the order of their characters; a prefix may end inside a part."""
    keys = ["a", "b-1/x", "b.1/x", "b/1", "b/10", "b/2/deep/er", "b0/x", "bb/x", "Z/z", "_", "c/..d"]
    for key in keys:
        await blobs.put(key, b".")
    assert await _keys(blobs, "") == sorted(keys)
    for prefix in ("b", "b/", "b/1", "b/2/", "b/2/deep/e", "b-", "nothing", "no/thing", "a/"):
        assert await _keys(blobs, prefix) == sorted(key for key in keys if key.startswith(prefix)), prefix


async def bad_keys_are_refused(blobs: Blobs, folder: Path) -> None:
    """A key that could mean another place never reaches the store."""
    for key in BAD_KEYS:
        claim = Claim(uri=key, sha256="0" * 64, size_bytes=0)
        await _raises(InvalidField, blobs.put(key, b""))
        await _raises(InvalidField, blobs.put_new(key, b""))
        await _raises(InvalidField, blobs.get(claim))
        await _raises(InvalidField, blobs.fetch(claim, folder / "x"))
        await _raises(InvalidField, blobs.exists(key))
        await _raises(InvalidField, blobs.delete(key))
    for prefix in BAD_PREFIXES:
        await _raises(InvalidField, _keys(blobs, prefix))
    assert await _keys(blobs, "") == []


async def many_callers_at_once(blobs: Blobs, folder: Path) -> None:
    """A store is safe for concurrent use."""

    async def round_trip(number: int) -> None:
        data = number.to_bytes(4, "big") * 25_000
        claim = await blobs.put(f"many/{number:03}", data)
        assert await blobs.get(claim) == data
        await blobs.fetch(claim, folder / str(number))
        assert (folder / str(number)).read_bytes() == data

    await asyncio.gather(*(round_trip(number) for number in range(40)))
    assert len(await _keys(blobs, "many/")) == 40


async def close_is_idempotent(blobs: Blobs, folder: Path) -> None:
    """Closing twice is closing once."""
    await blobs.close()
    await blobs.close()


BLOBS_CONTRACT: tuple[Check, ...] = (
    bytes_come_back_under_their_claim,
    a_file_is_put_like_its_bytes,
    ranges_are_parts_of_the_whole,
    an_empty_blob_is_a_blob,
    put_replaces,
    put_new_never_overwrites,
    one_of_racing_writers_wins,
    racing_writers_of_equal_bytes_all_win,
    a_missing_blob_is_missing,
    a_wrong_claim_is_corrupt,
    fetch_replaces_the_target,
    delete_is_idempotent,
    list_is_ordered_and_exact,
    bad_keys_are_refused,
    many_callers_at_once,
    close_is_idempotent,
)


async def _keys(blobs: Blobs, prefix: str) -> list[str]:
    return [key async for key in blobs.list(prefix)]


async def _raises(kind: type[MintError], call: Awaitable[object]) -> None:
    try:
        answer = await call
    except kind:
        return
    raise AssertionError(f"expected {kind.__name__}, got {answer!r}")
