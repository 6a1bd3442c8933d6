"""The protocol between the loader and its builder process: msgpack frames over a socket pair.

Both belong to one installation, and no other process has an end of the pair.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from mint_common.claims import RevisionRef
from mint_common.dtypes import Dtype
from mint_common.errors import Unavailable
from mint_common.ids import Digest
from mint_common.runtime import frames
from services.loader.core.disk_cache import StoredAdapter
from services.loader.ports import StagedAdapter

T = TypeVar("T")


class Setup(msgspec.Struct, frozen=True):
    """The first frame: the builder's configuration.

    ``blobs`` are the settings of the store, as JSON; ``dtype`` is the dtype of laid out adapters; ``arena``
    is the path of the memory for them, empty if there is none, and ``taken`` the loader's ranges in it, start
    and size of each.
    """

    base_dir: str
    cache_dir: str
    disk_bytes: int
    blobs: str
    dtype: Dtype
    arena: str = ""
    taken: Sequence[tuple[int, int]] = ()


class CacheContents(msgspec.Struct, frozen=True):
    """The answer to `Setup`: the disk cache's content, or the ``problem`` that ends the builder."""

    stored: Sequence[StoredAdapter] = ()
    problem: str = ""


class Stage(msgspec.Struct, frozen=True, tag=True):
    """Bring a revision's files to the local disk and check them; lay out one of at most ``ahead_bytes``."""

    revision: RevisionRef
    ahead_bytes: int


class Trim(msgspec.Struct, frozen=True, tag=True):
    """Evict files beyond the cache's size."""

    keep: Sequence[Digest]


class LayOut(msgspec.Struct, frozen=True, tag=True):
    """Lay an adapter of the disk cache out in shared memory."""

    folder: str


class Release(msgspec.Struct, frozen=True, tag=True):
    """Release a laid out adapter: a range of the arena, or the builder's own hold. Has no answer."""

    handle: int
    in_arena: bool


class Ping(msgspec.Struct, frozen=True, tag=True):
    """A question whether the builder still works, and the answer that it does."""


Work = Stage | Trim | LayOut | Release | Ping


class Call(msgspec.Struct, frozen=True):
    """Something to do; the answer has the same number."""

    number: int
    work: Work


class Trimmed(msgspec.Struct, frozen=True, tag=True):
    """The adapters evicted from the disk."""

    gone: Sequence[Digest]


class TensorAt(msgspec.Struct, frozen=True, array_like=True):
    """A tensor of the engine's dtype, and where it begins, in items."""

    name: str
    shape: tuple[int, ...]
    begin: int


class LaidOut(msgspec.Struct, frozen=True, tag=True):
    """An adapter in memory at a path of this machine, ``begin`` bytes after its start.

    One in the arena stays until it is released, and its handle is its start. One of the builder's own stays
    until then or the builder's end; a process that has mapped it keeps the mapping. ``tensor_index`` has the
    places of its tensors (`write_index`): the same bytes for all adapters of one shape, read once per shape.
    """

    handle: int
    path: str
    begin: int
    in_arena: bool
    size_bytes: int
    rank: int
    tensor_index: bytes


class Staged(msgspec.Struct, frozen=True, tag=True):
    """Files are on the disk; ``seconds`` by stage of the work, for the metrics."""

    adapter: StagedAdapter
    stored: StoredAdapter
    seconds: Sequence[tuple[str, float]]
    ahead: LaidOut | None


class Failure(msgspec.Struct, frozen=True, tag=True):
    """It failed; ``error`` is a `MintError` payload; ``is_stored`` whether files are still on the disk."""

    error: dict[str, str | float | bool | None]
    is_stored: bool


Outcome = Staged | Trimmed | LaidOut | Failure | Ping


class Answer(msgspec.Struct, frozen=True):
    """The result of a call."""

    number: int
    outcome: Outcome


def write_index(tensors: Sequence[TensorAt]) -> bytes:
    """Return where an adapter's tensors are."""
    return msgspec.msgpack.encode(tensors)


def read_index(data: bytes) -> list[TensorAt]:
    """Return what `write_index` wrote."""
    return msgspec.msgpack.decode(data, type=list[TensorAt])


def write_frame(writer: asyncio.StreamWriter, message: msgspec.Struct) -> None:
    """Send a message; never blocks."""
    writer.write(frames.frame(msgspec.msgpack.encode(message, enc_hook=_encode_path)))


async def read_frame(reader: asyncio.StreamReader, kind: type[T]) -> T:
    """Return the next message. Raises Unavailable when the other side has ended, or is of another version."""
    try:
        data = await frames.read_frame(reader)
    except EOFError as error:
        raise Unavailable(what="the builder", problem="its process has ended") from error
    try:
        return msgspec.msgpack.decode(data, type=kind, dec_hook=_decode_path)
    except msgspec.DecodeError as error:
        raise Unavailable(what="the builder", problem=f"unreadable message: {error}") from error


def _encode_path(value: object) -> object:
    assert isinstance(value, Path)
    return str(value)


def _decode_path(kind: type, value: object) -> object:
    assert kind is Path
    return Path(str(value))
