"""Blobs as files below one folder.

A blob is written to a temporary file, synced, then renamed (``put``) or hard-linked (``put_new``) to its
place, and the folder is synced: a crash or power loss leaves the old state or the new one. Folders below the
root are opened one by one through descriptors and never through symbolic links, so no key and no planted link
leads outside.
A key may not be a folder of another key (``a`` and ``a/b``).
"""

import asyncio
import errno
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mint_common.blobs.checked import (
    CHUNK_BYTES,
    Check,
    check_range,
    check_size,
    claim_of,
    claim_of_file,
    landing,
)
from mint_common.blobs.port import check_key, check_prefix
from mint_common.claims import Claim
from mint_common.errors import (
    AlreadyExists,
    BlobCorrupt,
    BlobMissing,
    InvalidField,
    MintError,
    Unavailable,
    plain_problem,
)

_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
# No key contains it, so a file that a crash left half written is never mistaken for a blob.
_TEMPORARY = "~"


class LocalBlobs:
    """Blobs below a folder, which is made when the first blob is stored."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    async def put(self, key: str, data: bytes) -> Claim:
        """Store bytes, replacing an existing blob."""
        await asyncio.to_thread(self._store, key, (data,), replace=True)
        return claim_of(key, data)

    async def put_new(self, key: str, data: bytes) -> Claim:
        """Store bytes under a free key."""
        return await self._put_new(claim_of(key, data), lambda: (data,))

    async def put_file(self, key: str, path: Path) -> Claim:
        """Store a file's bytes under a free key."""
        check_key(key)
        claim = await asyncio.to_thread(claim_of_file, key, path)
        return await self._put_new(claim, lambda: _chunks_of(path))

    async def _put_new(self, claim: Claim, chunks: Callable[[], Iterable[bytes]]) -> Claim:
        while not await asyncio.to_thread(self._store, claim.uri, chunks(), replace=False):
            try:
                await asyncio.to_thread(self._verify, claim)
            except BlobMissing:
                continue  # removed concurrently
            except BlobCorrupt as error:
                raise AlreadyExists(kind="blob", name=claim.uri) from error
            break
        return claim

    async def get(self, claim: Claim) -> bytes:
        """Return the claimed bytes, checked."""
        return await asyncio.to_thread(lambda: b"".join(self._chunks(claim)))

    async def get_range(self, claim: Claim, *, start: int, size: int) -> bytes:
        """Return a part of the claimed bytes."""
        check_range(claim, start=start, size=size)
        return await asyncio.to_thread(self._part, claim, start, size)

    async def fetch(self, claim: Claim, path: Path) -> None:
        """Copy the claimed bytes to a file outside the store."""
        check_key(claim.uri)
        await asyncio.to_thread(self._copy, claim, path)

    async def delete(self, key: str) -> None:
        """Remove a key."""
        await asyncio.to_thread(self._remove, key)

    async def list(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys under a prefix."""
        folders = check_prefix(prefix)
        for key in await asyncio.to_thread(self._keys, folders, prefix.rpartition("/")[2]):
            yield key

    async def close(self) -> None:
        """Do nothing: no descriptor outlives a call."""

    def _store(self, key: str, data: Iterable[bytes], *, replace: bool) -> bool:
        """Return False if the place is taken and may not be replaced."""
        *folders, name = check_key(key)
        temporary = f"{_TEMPORARY}{secrets.token_hex(12)}"
        taken = InvalidField(field="key", problem=f"{key!r} crosses another key or a link")
        with _translated(taken), self._folder(folders, create=True) as folder:
            try:
                _write(folder, temporary, data)
                if replace:
                    os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
                else:
                    os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                return False
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)
                # Also for the loser of a race: the file that it found must be durable before it returns.
                os.fsync(folder)
        return True

    def _chunks(self, claim: Claim) -> Iterator[bytes]:
        check = Check(claim)
        with self._opened(claim.uri) as file:
            while chunk := file.read(CHUNK_BYTES):
                check.update(chunk)
                yield chunk
        check.finish()

    def _verify(self, claim: Claim) -> None:
        for _ in self._chunks(claim):
            pass

    def _part(self, claim: Claim, start: int, size: int) -> bytes:
        with self._opened(claim.uri) as file:
            check_size(claim, os.fstat(file.fileno()).st_size)
            file.seek(start)
            return file.read(size)

    def _copy(self, claim: Claim, path: Path) -> None:
        with landing(path) as file:
            for chunk in self._chunks(claim):
                file.write(chunk)

    def _remove(self, key: str) -> None:
        *folders, name = check_key(key)
        with suppress(BlobMissing), _translated(BlobMissing(uri=key)), self._folder(folders) as folder:
            os.unlink(name, dir_fd=folder)
            os.fsync(folder)

    def _keys(self, folders: Sequence[str], begin: str) -> Sequence[str]:
        """Return the keys in these folders whose next part begins so; no other folder is entered."""
        keys = []
        missing = BlobMissing(uri="/".join(folders))
        with suppress(BlobMissing), _translated(missing), self._folder(folders) as top:
            for place, inner, names, _ in os.fwalk(".", dir_fd=top, follow_symlinks=False):
                below = [part for part in place.split("/") if part != "."]
                if not below:
                    inner[:] = [name for name in inner if name.startswith(begin)]
                    names = [name for name in names if name.startswith(begin)]  # noqa: PLW2901
                keys += ["/".join((*folders, *below, name)) for name in names if _TEMPORARY not in name]
        return sorted(keys)

    @contextmanager
    def _opened(self, key: str) -> Iterator[BinaryIO]:
        *folders, name = check_key(key)
        with (
            _translated(BlobMissing(uri=key)),
            self._folder(folders) as folder,
            open(
                name, "rb", opener=lambda path, how: os.open(path, how | os.O_NOFOLLOW, dir_fd=folder)
            ) as file,
        ):
            yield file

    @contextmanager
    def _folder(self, parts: Sequence[str], *, create: bool = False) -> Iterator[int]:
        if create:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in parts:
                below = _enter(fd, part, create=create)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)


def _enter(folder: int, name: str, *, create: bool) -> int:
    try:
        return os.open(name, _ENTER, dir_fd=folder)
    except FileNotFoundError:
        if not create:
            raise
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
        os.fsync(folder)
    except FileExistsError:
        pass
    return os.open(name, _ENTER, dir_fd=folder)


def _chunks_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _write(folder: int, name: str, data: Iterable[bytes]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:
        file.writelines(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _translated(absent: MintError) -> Iterator[None]:
    """Raise ``absent`` for a path without the expected file or folder, and Unavailable for other errors."""
    try:
        yield
    except OSError as error:
        if error.errno in _ABSENT:
            raise absent from error
        raise Unavailable(what="the blob folder", problem=plain_problem(error)) from error
