"""What the loader and its builder process say to each other: msgpack frames over a socket pair.

Both are of one installation, and nobody else has an end of the pair.
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
    """The first frame: what the builder works with.

    ``blobs`` are the settings of the store, as JSON; ``dtype`` is what adapters are laid out in; ``arena`` is
    the path of the memory for them, empty if there is none, and ``taken`` what the loader has of it, begin
    and size of each range.
    """

    base_dir: str
    cache_dir: str
    disk_bytes: int
    blobs: str
    dtype: Dtype
    arena: str = ""
    taken: Sequence[tuple[int, int]] = ()


class CacheContents(msgspec.Struct, frozen=True):
    """The answer to it: what lies in the disk cache; ``problem`` is why the builder cannot work and ends."""

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
    """Give up what was laid out: a range of the arena, or the builder's own hold. Nothing is answered."""

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
    """What has left the disk."""

    gone: Sequence[Digest]


class TensorAt(msgspec.Struct, frozen=True, array_like=True):
    """A tensor of the engine's dtype, and where it begins, in items."""

    name: str
    shape: tuple[int, ...]
    begin: int


class LaidOut(msgspec.Struct, frozen=True, tag=True):
    """An adapter in memory that its path, of this machine, opens, ``begin`` bytes behind the beginning.

    One in the arena is there until it is released, and its handle is where it begins. One of the builder's
    own is there until then, or the builder's end: whoever has mapped it keeps it, else it is gone.
    ``tensor_index`` says where its tensors are (`write_index`): the same bytes for all adapters of one shape,
    read once a shape.
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
    """What a call came to."""

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
