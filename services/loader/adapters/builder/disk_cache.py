"""The local disk cache of adapter files.

Invariants: an adapter is stored under its own digest, so no path comes from a request; a folder in the cache
was complete when it was added; a file is checked before its first use by this process, and again when its
inode, size or times have changed; a broken download resumes where it stopped. Nothing is synced: files torn
by a power loss are detected, and fetched again. An unpacked adapter of experts has its packed form in a
folder inside its own, which is the one served. Remains of broken downloads count; a full disk evicts,
regardless of the capacity.
"""

import asyncio
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mint_common.adapters_format import (
    CONFIG_FILE,
    MANIFEST_FILE,
    PACKED,
    WEIGHTS_FILE,
    BaseFacts,
    Manifest,
    Reason,
    check_folder,
    check_manifest,
    convert_adapter,
    fetch_manifest,
    has_experts,
    read_manifest,
    stage_files,
)
from mint_common.adapters_format.names import LAYOUTS
from mint_common.adapters_format.refusal import AdapterUnreadable, shown
from mint_common.adapters_format.tensor_file import ITEM_BYTES as FILE_ITEM_BYTES
from mint_common.blobs.port import Blobs
from mint_common.blobs.resuming import RANGE_BYTES, ResumingBlobs
from mint_common.claims import Claim, RevisionRef
from mint_common.dtypes import ITEM_BYTES, Dtype
from mint_common.errors import AdapterInvalid, Unavailable
from mint_common.full_disks import full_disk
from mint_common.ids import Digest
from mint_common.runtime.clock import Clock
from services.loader import metrics
from services.loader.core.disk_cache import StoredAdapter, plan_trim
from services.loader.ports import StagedAdapter

_FOLDER = re.compile(r"[0-9a-f]{64}")
_PACKED_FOLDER = "packed"
_PARTIALS = ".partial"

Marks = tuple[tuple[str, int, int, int, int], ...]
"""Identity of each file: its path, inode, size, modification time and change time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """Checked files of a manifest, with their inode, size and times."""

    manifest: Claim
    marks: Marks
    staged: StagedAdapter


class DiskCache:
    """Adapters from the blob store, stored on the local disk."""

    def __init__(
        self,
        blobs: Blobs,
        facts: BaseFacts,
        *,
        root: Path,
        capacity_bytes: int,
        clock: Clock,
        dtype: Dtype = "float32",
        range_bytes: int = RANGE_BYTES,
        observe: Callable[[str, float], None] = metrics.observe_load,
    ) -> None:
        """``dtype`` is the engine's; ``observe`` gets the seconds of each stage of a load."""
        self._item_bytes = ITEM_BYTES[dtype]
        self._blobs = ResumingBlobs(blobs, partials=root / _PARTIALS, range_bytes=range_bytes)
        self._facts = facts
        self._root = root
        self._capacity_bytes = capacity_bytes
        self._clock = clock
        self._observe = observe
        self._stored: dict[Digest, StoredAdapter] = {}
        self._stored_bytes = 0
        self._proved: dict[Digest, Proved] = {}
        self._kept: frozenset[Digest] = frozenset()

    def open(self) -> None:
        """List the adapters of an earlier run; remove incomplete ones, except downloads."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in self._root.iterdir():
            whole = all((folder / name).is_file() for name in (WEIGHTS_FILE, CONFIG_FILE, MANIFEST_FILE))
            if _FOLDER.fullmatch(folder.name) and whole:
                touched = (folder / WEIGHTS_FILE).stat().st_mtime
                self._enter(Digest(f"sha256:{folder.name}"), _weights_bytes(folder), touched=touched)
            elif folder.is_dir() and folder.name != _PARTIALS:
                shutil.rmtree(folder)

    async def stage(self, revision: RevisionRef) -> StagedAdapter:
        """Bring a revision's files here, checked against the claim and the base."""
        folder = self._folder(revision.digest)
        try:
            return await self._stage_with_room(revision, folder)
        except AdapterInvalid:
            await self._remove(revision.digest)
            raise
        except OSError as error:
            await self._remove(revision.digest)
            raise Unavailable(what="the adapter cache", problem=str(error)) from error

    async def _stage_with_room(self, revision: RevisionRef, folder: Path) -> StagedAdapter:
        """Stage; on a full disk evict and retry, as long as there is something to remove."""
        while True:
            try:
                staged = await self._stage(revision, folder)
            except (OSError, Unavailable) as error:
                if full_disk(error) is None or not await self._make_room():
                    raise
            else:
                await self._blobs.bound_partials(max(0, self._capacity_bytes - self._stored_bytes))
                return staged

    async def _make_room(self) -> bool:
        """Remove old broken downloads, and half of the unneeded adapters; return whether any were removed."""
        removed = await self._blobs.bound_partials(0, spared=1)
        spare = sum(each.size_bytes for each in self._stored.values() if each.digest not in self._kept)
        if spare:
            removed += spare
            await self._trim_to(self._stored_bytes - (spare + 1) // 2)
        return removed > 0

    async def _stage(self, revision: RevisionRef, folder: Path) -> StagedAdapter:
        proved = self._proved.get(revision.digest)
        if proved is None or not await asyncio.to_thread(_is_as_proved, proved, revision, folder):
            proved = self._proved[revision.digest] = await self._prove(revision, folder)
        self._enter(revision.digest, proved.staged.size_bytes, touched=self._clock.now())
        return proved.staged

    async def _prove(self, revision: RevisionRef, folder: Path) -> Proved:
        began = self._clock.monotonic()
        manifest = await self._manifest(revision)
        if manifest.digest != revision.digest:
            problem = f"the manifest is of {manifest.digest}, the revision is {revision.digest}"
            raise AdapterInvalid(reason=Reason.WRONG_DIGEST.value, problem=problem)
        check_manifest(self._facts, manifest)
        await stage_files(self._blobs, revision.manifest, manifest, folder)
        staged = self._clock.monotonic()
        proved = await asyncio.to_thread(self._check, revision, manifest, folder)
        self._observe("fetch", staged - began)
        self._observe("check", self._clock.monotonic() - staged)
        return proved

    async def _manifest(self, revision: RevisionRef) -> Manifest:
        """Return a revision's manifest. Raises AdapterUnreadable for one of a newer format."""
        try:
            manifest = await fetch_manifest(self._blobs, revision.manifest)
        except AdapterInvalid as error:
            # The registry has read these very bytes before it published them.
            raise AdapterUnreadable(digest=revision.digest, problem=error.problem) from error
        if manifest.layout not in LAYOUTS:
            raise AdapterUnreadable(digest=revision.digest, problem=f"its layout is {shown(manifest.layout)}")
        return manifest

    def _check(self, revision: RevisionRef, manifest: Manifest, folder: Path) -> Proved:
        """Check files that match the manifest against the base, and pack them if worthwhile."""
        check_folder(self._facts, manifest, folder, proved=True)
        place, served = self._packed(folder, manifest)
        host_bytes = served.files[WEIGHTS_FILE].size_bytes * self._item_bytes // FILE_ITEM_BYTES[served.dtype]
        staged = StagedAdapter(
            digest=revision.digest,
            folder=place,
            rank=manifest.rank,
            size_bytes=_weights_bytes(folder),
            host_bytes=host_bytes,
        )
        return Proved(manifest=revision.manifest, marks=_marks(folder), staged=staged)

    def _packed(self, folder: Path, manifest: Manifest) -> tuple[Path, Manifest]:
        """Return the folder that the engine loads and its manifest, packing it once if worthwhile."""
        if manifest.layout == PACKED or not has_experts(self._facts, manifest.targets):
            return folder, manifest
        packed = folder / _PACKED_FOLDER
        if packed.exists():
            try:
                found = read_manifest((packed / MANIFEST_FILE).read_bytes())
                check_folder(self._facts, found, packed)
            except (AdapterInvalid, FileNotFoundError):
                shutil.rmtree(packed)
            else:
                return packed, found
        return packed, convert_adapter(self._facts, folder, packed, layout=PACKED)

    async def trim(self, *, keep: Collection[Digest]) -> None:
        """Remove the least recently used beyond the capacity."""
        self._kept = frozenset(keep)
        if self._stored_bytes > self._capacity_bytes:
            await self._trim_to(self._capacity_bytes)

    async def _trim_to(self, capacity_bytes: int) -> None:
        gone = plan_trim(self._stored.values(), capacity_bytes=capacity_bytes, keep=self._kept)
        # Renamed before the first await: whoever stages one of them from now on finds no folder.
        doomed = [self._set_aside(digest) for digest in gone]
        for folder in doomed:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def stored(self) -> Sequence[StoredAdapter]:
        """Return the stored adapters."""
        return list(self._stored.values())

    def holds(self, digest: Digest) -> bool:
        """Return whether an adapter is here."""
        return digest in self._stored

    def entry_of(self, digest: Digest) -> StoredAdapter:
        """Return an adapter that is here."""
        return self._stored[digest]

    def size_of(self, digest: Digest) -> int | None:
        """Return the size of an adapter's weights, if it is here."""
        entry = self._stored.get(digest)
        return entry.size_bytes if entry else None

    async def _remove(self, digest: Digest) -> None:
        if self._folder(digest).exists():
            await asyncio.to_thread(shutil.rmtree, self._set_aside(digest), ignore_errors=True)

    def _enter(self, digest: Digest, size_bytes: int, *, touched: float) -> None:
        self._leave(digest)
        self._stored[digest] = StoredAdapter(digest=digest, size_bytes=size_bytes, touched=touched)
        self._stored_bytes += size_bytes

    def _leave(self, digest: Digest) -> None:
        entry = self._stored.pop(digest, None)
        self._stored_bytes -= entry.size_bytes if entry else 0

    def _set_aside(self, digest: Digest) -> Path:
        self._leave(digest)
        self._proved.pop(digest, None)
        doomed = self._root / f".gone.{secrets.token_hex(6)}"
        self._folder(digest).rename(doomed)
        return doomed

    def _folder(self, digest: Digest) -> Path:
        return self._root / digest.removeprefix("sha256:")


def _weights_bytes(folder: Path) -> int:
    places = folder / WEIGHTS_FILE, folder / _PACKED_FOLDER / WEIGHTS_FILE
    return sum(place.stat().st_size for place in places if place.exists())


def _is_as_proved(proved: Proved, revision: RevisionRef, folder: Path) -> bool:
    return proved.manifest == revision.manifest and proved.marks == _marks(folder)


def _marks(folder: Path) -> Marks:
    return tuple(sorted(_marks_of(folder)))


def _marks_of(folder: Path) -> Iterator[tuple[str, int, int, int, int]]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _marks_of(Path(entry.path))
            else:
                found = entry.stat(follow_symlinks=False)
                yield entry.path, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
