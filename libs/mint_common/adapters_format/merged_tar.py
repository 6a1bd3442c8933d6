"""Stream a full model as a plain tar that is computed while it is read: text files, merged weights, terms.

Invariant: reading from a given byte costs only the bytes after it, and for a float16 base the check of its
range.
As a program (arguments: the base's folder, the adapter's, the first byte) it writes a line of JSON, a
`TarHead`, then the tar from that byte on. The adapter's folder may be removed after that line. If the first
weight cannot be merged, the head has the error; a later one ends the tar, with its error on standard error.
"""

import os
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import msgspec

from mint_common.adapters_format.base_files import licence_files, text_files
from mint_common.adapters_format.base_folder import read_base_facts
from mint_common.adapters_format.merge import MergedFile, Piece, plan_merge, ready_piece
from mint_common.errors import MintError, RangeBeyond

_END = bytes(2 * tarfile.BLOCKSIZE)
_NICE = 19
"""Other processes of the same cgroup go first; containers get what their own weights say."""


class TarHead(msgspec.Struct, frozen=True):
    """``size_bytes`` of the whole tar; or ``error``, the payload of the MintError that there is instead."""

    size_bytes: int = 0
    error: dict[str, object] | None = None


def plan_tar(base: Path, adapter: Path) -> list[MergedFile]:
    """Return the files of a base with an adapter merged.

    Of the base's folder they have what makes a base, and its terms.

    Raises what `plan_merge` raises.
    """
    merged = plan_merge(read_base_facts(base), base, adapter)
    return [*_copied(base, text_files(base)), *merged, *_copied(base, licence_files(base))]


def tar_bytes(files: Sequence[MergedFile]) -> int:
    """Return the size of the tar."""
    return sum(len(_header(each)) + each.size_bytes + len(_padding(each)) for each in files) + len(_END)


def read_tar(files: Sequence[MergedFile], *, begin: int = 0) -> Iterator[bytes | memoryview]:
    """Yield the tar from a byte on, in parts of less than a MiB, but for a header or a row that is larger."""
    for piece in _pieces(files):
        if begin < piece.size_bytes:
            yield piece.make()[begin:]
        begin = max(0, begin - piece.size_bytes)


def _pieces(files: Sequence[MergedFile]) -> Iterator[Piece]:
    for each in files:
        yield ready_piece(_header(each))
        yield from each.pieces()
        yield ready_piece(_padding(each))
    yield ready_piece(_END)


def _header(file: MergedFile) -> bytes:
    member = tarfile.TarInfo(file.name)
    member.size = file.size_bytes
    return member.tobuf(tarfile.GNU_FORMAT)  # which has room for more than 8 GiB


def _padding(file: MergedFile) -> bytes:
    return bytes(-file.size_bytes % tarfile.BLOCKSIZE)


def _copied(base: Path, names: Iterable[str]) -> Iterator[MergedFile]:
    for name in names:
        yield _stored(name, (base / name).read_bytes())


def _stored(name: str, data: bytes) -> MergedFile:
    return MergedFile(name=name, size_bytes=len(data), pieces=lambda: iter([ready_piece(data)]))


def main(base: str, adapter: str, begin: str) -> None:
    """Write the head and the tar to standard output, until its reader has gone."""
    os.nice(_NICE)
    out = sys.stdout.buffer
    parts: Iterator[bytes | memoryview] = iter(())
    first: bytes | memoryview = b""
    try:
        files = plan_tar(Path(base), Path(adapter))
        head = TarHead(size_bytes=tar_bytes(files))
        if int(begin) >= head.size_bytes:
            raise RangeBeyond(begin=int(begin), size_bytes=head.size_bytes)
        parts = read_tar(files, begin=int(begin))
        first = next(parts)
    except MintError as error:
        head = TarHead(error=error.to_payload())
    try:
        out.write(msgspec.json.encode(head) + b"\n")
        out.flush()
        for part in chain([first], parts):
            out.write(part)
        out.flush()
    except BrokenPipeError:
        os._exit(1)  # the interpreter would try to write what is left
    except MintError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
