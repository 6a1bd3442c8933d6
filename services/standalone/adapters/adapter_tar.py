"""An adapter as a tar that arrives: its files, checked by their hashes, in a new folder."""

import hashlib
import io
import os
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mint_common.adapters_format import CONFIG_FILE, WEIGHTS_FILE
from mint_common.errors import Unavailable

_CHUNK_BYTES = 1 << 20
_NAMES = {CONFIG_FILE, WEIGHTS_FILE}


def read_adapter(
    parts: Iterator[bytes], headers: Mapping[str, str], folder: Path, progress: Callable[[int, int], None]
) -> None:
    """Write the files of a tar into a folder, all or nothing. Raises Unavailable, OSError.

    ``headers`` are those of the answer: its size, and the hash of each file.
    """
    told = dict(each.split("=") for each in headers.get("x-mint-sha256", "").split(", ") if "=" in each)
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}")
    draft.mkdir(parents=True)
    try:
        total = int(headers.get("content-length", 0))
        arriving = _Arriving(parts, total, progress)
        with tarfile.open(fileobj=arriving, mode="r|") as archive:
            found = {member.name: _write(archive, member, draft, most=total) for member in archive}
        if set(found) != _NAMES or found != told:
            raise _wrong("the files that came are not those of the revision")
        draft.rename(folder)
    except tarfile.TarError as error:
        raise _wrong(str(error)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


class _Arriving(io.RawIOBase):
    """What `tarfile` reads of."""

    def __init__(self, parts: Iterator[bytes], total: int, progress: Callable[[int, int], None]) -> None:
        super().__init__()
        self._parts = parts
        self._left = b""
        self._seen = 0
        self._total = total
        self._progress = progress

    def read(self, size: int = -1, /) -> bytes:
        """Return that many bytes, fewer at the end."""
        found = [self._left]
        missing = size - len(self._left)
        while missing > 0 and (part := next(self._parts, b"")):
            found.append(part)
            missing -= len(part)
            self._seen += len(part)
            self._progress(self._seen, self._total)
        data = b"".join(found)
        self._left = data[size:]
        return data[:size]


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, *, most: int) -> str:
    """Write a file of at most that many bytes; return its hash."""
    is_plain = member.isreg() and not member.issparse() and member.name in _NAMES
    content = archive.extractfile(member) if is_plain else None
    if content is None:
        raise _wrong(f"it has {member.name[:60]!r}, which is no file of an adapter")
    if member.size > most:
        raise _wrong(f"{member.name} has {member.size} bytes, more than the answer's {most}")
    proof = hashlib.sha256()
    with (folder / member.name).open("wb") as file:
        while part := content.read(_CHUNK_BYTES):
            proof.update(part)
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return proof.hexdigest()


def _wrong(problem: str) -> Unavailable:
    return Unavailable(what="the adapter's tar", problem=problem)
