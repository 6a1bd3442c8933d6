"""Adapters in the blob store, and staged from there into a local folder.

Invariants: a stored manifest has its files beside it already (it is written last); a staged folder is
complete and checked against the manifest's proofs, or absent.
"""

import asyncio
import errno
import hashlib
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from mint_common.adapters_format.build import AdapterFiles
from mint_common.adapters_format.manifest import MAX_MANIFEST_BYTES, Manifest, read_manifest
from mint_common.adapters_format.names import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE
from mint_common.adapters_format.refusal import Reason, refusal
from mint_common.claims import Claim
from mint_common.ids import Digest, PolicyId


class AdapterSink(Protocol):
    """The part of a blob store that storing needs."""

    async def put_new(self, key: str, data: bytes) -> Claim:
        """Store bytes under a free key, or one that holds equal bytes. Raises AlreadyExists."""
        ...


class FileSink(Protocol):
    """The part of a blob store that storing a folder needs."""

    async def put_file(self, key: str, path: Path) -> Claim:
        """Store a file under a free key, or one that holds equal bytes. Raises AlreadyExists."""
        ...


class AdapterSource(Protocol):
    """The part of a blob store that staging needs; both raise BlobMissing and BlobCorrupt."""

    async def get(self, claim: Claim) -> bytes:
        """Return the claimed bytes, checked."""
        ...

    async def fetch(self, claim: Claim, path: Path) -> None:
        """Write the claimed bytes to a file, checked."""
        ...


def adapter_prefix(policy_id: PolicyId, digest: Digest, *, export_id: str) -> str:
    """Return the key prefix of an export, without a slash at the end."""
    digits = digest.removeprefix("sha256:")
    return f"revisions/{policy_id}/{digits[:2]}/{digits}-{export_id}"


async def store_adapter(blobs: AdapterSink, files: AdapterFiles, *, export_id: str) -> Claim:
    """Store the three files and return the claim of the manifest. A repeat changes nothing."""
    prefix = adapter_prefix(files.manifest.policy_id, files.digest, export_id=export_id)
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        await blobs.put_new(f"{prefix}/{name}", files.files[name])
    return await blobs.put_new(f"{prefix}/{MANIFEST_FILE}", files.files[MANIFEST_FILE])


async def store_folder(blobs: FileSink, folder: Path, manifest: Manifest, *, export_id: str) -> Claim:
    """Store an adapter folder, whatever its size, and return the claim of the manifest."""
    prefix = adapter_prefix(manifest.policy_id, manifest.digest, export_id=export_id)
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        await blobs.put_file(f"{prefix}/{name}", folder / name)
    return await blobs.put_file(f"{prefix}/{MANIFEST_FILE}", folder / MANIFEST_FILE)


async def fetch_manifest(blobs: AdapterSource, claim: Claim) -> Manifest:
    """Return a stored manifest. Raises BlobMissing, BlobCorrupt, AdapterInvalid."""
    if claim.size_bytes > MAX_MANIFEST_BYTES:
        raise refusal(Reason.BAD_MANIFEST, f"{claim.size_bytes} bytes, the limit is {MAX_MANIFEST_BYTES}")
    return read_manifest(await blobs.get(claim))


async def stage_adapter(blobs: AdapterSource, claim: Claim, folder: Path) -> Manifest:
    """Put the three files of a stored adapter into a folder, all or nothing, and return the manifest.

    A folder that holds exactly these files already is kept; one that holds anything else is replaced. The
    content is proved to be the manifest's, not to fit a base: see `check.check_folder`.
    Raises BlobMissing, BlobCorrupt, AdapterInvalid.
    """
    manifest = await fetch_manifest(blobs, claim)
    if await asyncio.to_thread(_is_staged, folder, claim, manifest):
        return manifest
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}")
    try:
        await asyncio.to_thread(draft.mkdir, parents=True)
        prefix = claim.uri.rpartition("/")[0]
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            proof = manifest.files[name]
            uri = f"{prefix}/{name}"
            file_claim = Claim(uri=uri, sha256=proof.sha256, size_bytes=proof.size_bytes)
            await blobs.fetch(file_claim, draft / name)
        await blobs.fetch(claim, draft / MANIFEST_FILE)
        await asyncio.to_thread(_replace, draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


def _is_staged(folder: Path, claim: Claim, manifest: Manifest) -> bool:
    proofs = {MANIFEST_FILE: claim.sha256, **{name: proof.sha256 for name, proof in manifest.files.items()}}
    return all(_sha256(folder / name) == sha256 for name, sha256 in proofs.items())


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _replace(draft: Path, folder: Path) -> None:
    """Move the draft into place; of several that race, the last one stays, and all have equal content."""
    while True:
        try:
            draft.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
        old = draft.with_name(f"{draft.name}.old")
        with suppress(FileNotFoundError):
            folder.rename(old)
            shutil.rmtree(old)
