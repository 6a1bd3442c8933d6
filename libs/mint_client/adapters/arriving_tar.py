"""A tar that arrives: its files, checked, in a new folder."""

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mint_client.core.refusals import LocalFailureError
from mint_common.errors import InvalidField
from mint_common.model_files import CONFIG, CONFIG_FILE, WEIGHTS_FILE, weight_files
from mint_common.new_folder import new_folder

_CHUNK_BYTES = 1 << 20
_ADAPTER = {CONFIG_FILE, WEIGHTS_FILE}

Progress = Callable[[int, int], None]
"""Told (bytes received, bytes in all)."""
_IsFile = Callable[[str], bool]
_IsWhole = Callable[[Mapping[str, str], Path], bool]
"""Check of the received files: their hashes, and the folder that holds them."""


def read_adapter(
    parts: Iterator[bytes], headers: Mapping[str, str], folder: Path, progress: Progress
) -> None:
    """Write the files of an adapter's tar into a folder, all or nothing. Raises LocalFailureError, OSError.

    ``headers`` are those of the answer: its size, and the hash of each file.
    """
    told = dict(each.split("=") for each in headers.get("x-mint-sha256", "").split(", ") if "=" in each)

    def is_whole(found: Mapping[str, str], _draft: Path) -> bool:
        return set(found) == _ADAPTER and found == told

    arriving = _Arriving(parts, int(headers.get("content-length", 0)), progress)
    _write_all(arriving, folder, is_file=_ADAPTER.__contains__, is_whole=is_whole)


def read_model(parts: Iterator[bytes], total: int, folder: Path, progress: Progress) -> None:
    """Do the same with the tar of a whole model, of ``total`` bytes: its config, and all of its weights."""

    def is_file(name: str) -> bool:
        return not name.startswith(".") and Path(name).name == name

    def is_whole(found: Mapping[str, str], draft: Path) -> bool:
        return found.keys() >= {CONFIG, *weight_files(draft)}

    _write_all(_Arriving(parts, total, progress), folder, is_file=is_file, is_whole=is_whole)


def _write_all(arriving: "_Arriving", folder: Path, *, is_file: _IsFile, is_whole: _IsWhole) -> None:
    try:
        with new_folder(folder) as draft, tarfile.open(fileobj=arriving, mode="r|") as archive:
            found = {
                member.name: _write(archive, member, draft, is_file=is_file, most=arriving.total)
                for member in archive
            }
            arriving.check_all()
            if not is_whole(found, draft):
                raise _wrong("the files that came are not those of the revision")
    except (tarfile.TarError, InvalidField) as error:
        raise _wrong(str(error)) from error


class _Arriving(io.RawIOBase):
    """The file object that `tarfile` reads."""

    def __init__(self, parts: Iterator[bytes], total: int, progress: Progress) -> None:
        super().__init__()
        self._parts = parts
        self._left = b""
        self._seen = 0
        self.total = total
        self._progress = progress

    def read(self, size: int = -1, /) -> bytes:
        """Return that many bytes, fewer at the end."""
        found = [self._left]
        missing = size - len(self._left)
        while missing > 0 and (part := next(self._parts, b"")):
            found.append(part)
            missing -= len(part)
            self._seen += len(part)
            self._progress(self._seen, self.total)
        data = b"".join(found)
        self._left = data[size:]
        return data[:size]

    def check_all(self) -> None:
        """Read the rest. Raises LocalFailureError when the size differs from the announced one."""
        while self.read(_CHUNK_BYTES):
            pass
        if self._seen != self.total:
            raise _wrong(f"{self._seen} bytes came of {self.total}")


def _write(
    archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, *, is_file: _IsFile, most: int
) -> str:
    """Write a file of at most that many bytes; return its hash."""
    is_plain = member.isreg() and not member.issparse() and is_file(member.name)
    content = archive.extractfile(member) if is_plain else None
    if content is None:
        raise _wrong(f"it has {member.name[:60]!r}, which is no file that was asked for")
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


def _wrong(problem: str) -> LocalFailureError:
    return LocalFailureError(what="the tar", problem=problem)
