"""Store adapters in the blob store, and stage them in a local folder.

Invariants: the manifest is written last, so a stored manifest has its files; a staged folder is
complete and checked against the manifest's hashes, or absent.
"""

import asyncio
import errno
import hashlib
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from mint_common.adapters_format.build import AdapterFiles
from mint_common.adapters_format.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    proof_of,
    read_manifest,
    write_manifest,
)
from mint_common.adapters_format.refusal import Reason, refusal
from mint_common.claims import Claim
from mint_common.ids import Digest, PolicyId
from mint_common.model_files import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE

T = TypeVar("T")


class AdapterSink(Protocol):
    """The part of a blob store that storing needs."""

    async def put_new(self, key: str, data: bytes) -> Claim:
        """Store bytes under a free key, or one that holds equal bytes. Raises AlreadyExists."""
        ...

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


async def store_folder(blobs: AdapterSink, folder: Path, manifest: Manifest, *, export_id: str) -> Claim:
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
    """Write the three files of a stored adapter to a folder, all or nothing, and return the manifest.

    A folder that already holds exactly these files stays; any other is replaced. The content is checked
    against the manifest, not against a base: see `check.check_folder`. Raises BlobMissing, BlobCorrupt,
    AdapterInvalid.
    """
    manifest = await fetch_manifest(blobs, claim)
    await stage_files(blobs, claim, manifest, folder)
    return manifest


async def stage_files(blobs: AdapterSource, claim: Claim, manifest: Manifest, folder: Path) -> None:
    """Do what `stage_adapter` does with a manifest that was fetched already."""
    is_there = folder.exists()  # noqa: ASYNC240  # one look at a local disk: less than a turn of a thread
    if is_there and await asyncio.to_thread(_is_staged, folder, claim, manifest):
        return
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}")
    prefix = claim.uri.rpartition("/")[0]
    try:
        # Both must end before an error is raised: the cleanup removes files that they still write.
        weights, config = await asyncio.gather(
            blobs.fetch(_claim_of(manifest, WEIGHTS_FILE, prefix), draft / WEIGHTS_FILE),
            blobs.get(_claim_of(manifest, CONFIG_FILE, prefix)),
            return_exceptions=True,
        )
        _result(weights)
        small = {CONFIG_FILE: _result(config), MANIFEST_FILE: await _manifest_bytes(blobs, claim, manifest)}
        await asyncio.to_thread(_finish, draft, small, folder)
    except BaseException:
        await asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True)
        raise


def _result(outcome: T | BaseException) -> T:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _claim_of(manifest: Manifest, name: str, prefix: str) -> Claim:
    proof = manifest.files[name]
    return Claim(uri=f"{prefix}/{name}", sha256=proof.sha256, size_bytes=proof.size_bytes)


async def _manifest_bytes(blobs: AdapterSource, claim: Claim, manifest: Manifest) -> bytes:
    """Return the stored bytes, which are the canonical ones unless another program wrote them."""
    data = write_manifest(manifest)
    return data if proof_of(data).sha256 == claim.sha256 else await blobs.get(claim)


def _is_staged(folder: Path, claim: Claim, manifest: Manifest) -> bool:
    proofs = {MANIFEST_FILE: claim.sha256, **{name: proof.sha256 for name, proof in manifest.files.items()}}
    return all(_sha256(folder / name) == sha256 for name, sha256 in proofs.items())


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _finish(draft: Path, small: Mapping[str, bytes], folder: Path) -> None:
    """Complete the draft and move it into place.

    Of several that race, the last one stays, and all have equal content.
    """
    for name, data in small.items():
        (draft / name).write_bytes(data)
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
