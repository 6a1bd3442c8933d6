"""Uploads: an adapter from an HTTP body becomes a revision, or is refused with a fix.

Invariants: an adapter is checked like an export before it is stored; memory is bounded by a chunk of the body
and half a projection of one layer; the scratch folder is deleted before the answer is sent.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from mint_common.adapters_format import (
    CONFIG_FILE,
    MANIFEST_FILE,
    PACKED,
    WEIGHTS_FILE,
    BaseFacts,
    Manifest,
    write_manifest,
)
from mint_common.adapters_format.convert import write_adapter
from mint_common.adapters_format.origin import read_origin
from mint_common.adapters_format.storage import store_folder
from mint_common.blobs.port import Blobs
from mint_common.catalog import PolicyRecord, RevisionRecord, UploadedRevision
from mint_common.errors import AdapterInvalid, AlreadyExists, NotFound
from mint_common.events.job import LoraSpec
from mint_common.ids import Digest, PolicyId, derive_id, new_id
from mint_common.runtime.clock import Clock
from mint_common.runtime.fair_gate import FairGate
from mint_common.runtime.slow_clients import BODY_RATE, ClientWait, MinRate
from mint_common.tenant_budget import TenantBudget
from mint_common.uploads import UploadReason
from services.registry import metrics
from services.registry.adapters.catalog_postgres import PostgresCatalog
from services.registry.core.exports import UNSTORED, check_export, export_of
from services.registry.core.quotas import Kind, adapter_bytes
from services.registry.core.tar import FileBegins, FilePart, TarReader
from services.registry.core.uploads import (
    NewPolicy,
    check_config,
    check_file,
    check_files,
    check_first_bytes,
    lora_of,
    refused,
    shape_of,
    with_fix,
)
from services.registry.handlers.scratch import TEMPORARY, Scratch

RECEIVED_AT_ONCE, RECEIVED_OF_A_TENANT = 16, 4
"""Concurrent uploads from the first byte to publication. The others wait before their first byte is read."""
CONVERTED_AT_ONCE, CONVERTED_OF_A_TENANT = 4, 2
"""Concurrent conversions: the others wait, so a slow body or disk never occupies a slot for conversion."""
TENANT_UPLOADS = 64
"""Uploads of a tenant that wait or run: each holds a connection of its gateway."""
UPLOAD_RATE = replace(BODY_RATE, grace_seconds=2 * BODY_RATE.grace_seconds, stall_seconds=20)
"""Minimum rate of an upload. It is below the gateway's, so that clients get the gateway's error."""
MAX_SECONDS = 3600.0
"""Longest time for a whole body."""


_OF_A_REVISION: Sequence[Kind] = ("adapters", "adapter_bytes")


class UploadHandler:
    """Publishes uploaded adapters."""

    def __init__(
        self,
        *,
        catalog: PostgresCatalog,
        blobs: Blobs,
        clock: Clock,
        max_update_ratio: float,
        scratch: Scratch = TEMPORARY,
    ) -> None:
        self._catalog = catalog
        self._scratch = scratch
        self._blobs = blobs
        self._clock = clock
        self._max_update_ratio = max_update_ratio
        uploads = TenantBudget(what="the queue of your tenant's uploads", limit=TENANT_UPLOADS)
        self._receiving = FairGate(RECEIVED_AT_ONCE, limit=RECEIVED_OF_A_TENANT, callers=uploads)
        self._converting = FairGate(CONVERTED_AT_ONCE, limit=CONVERTED_OF_A_TENANT)

    async def upload(
        self,
        policy: PolicyRecord | NewPolicy,
        body: AsyncIterator[bytes],
        *,
        step: int,
        parent: int | Digest | None,
    ) -> UploadedRevision:
        """Publish the adapter in a tar stream as a revision. Equal weights are the same revision.

        A new policy is made once the adapter is checked. Raises UploadRefused, whose ``reason`` is a stable
        word and whose ``fix`` says what to do; InvalidField, QuotaExceeded, Overloaded.
        """
        if isinstance(policy, NewPolicy):  # this spares a client what would be refused
            await self._catalog.check_room(policy.tenant_id, "policies", *_OF_A_REVISION)
        async with self._receiving.turn(policy.tenant_id):
            revision = await self._take(policy, unstalled(body), step=step, parent=parent)
        metrics.UPLOADS.labels("published").inc()
        return revision

    async def _take(
        self,
        policy: PolicyRecord | NewPolicy,
        body: AsyncIterator[bytes],
        *,
        step: int,
        parent: int | Digest | None,
    ) -> UploadedRevision:
        try:
            async with self._scratch.folder("upload-") as scratch:
                parent_digest = await self._parent(policy, parent)
                await receive(body, scratch / "given")
                async with self._converting.turn(policy.tenant_id):
                    converted = await self._convert(policy, scratch)
                owner = await self._made(policy, converted.lora)
                manifest = replace(
                    converted.manifest, policy_id=owner.policy_id, step=step, parent=parent_digest
                )
                revision = await self._publish(owner, scratch / "adapter", manifest)
                known = {each.name: getattr(revision, each.name) for each in fields(revision)}
                return UploadedRevision(**known, warnings=converted.warnings)
        except AdapterInvalid as error:
            metrics.UPLOADS.labels("refused").inc()
            raise with_fix(error) from error

    async def _parent(self, policy: PolicyRecord | NewPolicy, parent: int | Digest | None) -> Digest | None:
        if parent is None:
            return None
        problem = f"policy {policy.name!r} has no revision {parent}"
        if isinstance(policy, NewPolicy):
            raise refused(UploadReason.UNKNOWN_PARENT, problem)
        try:
            return (await self._catalog.revision(policy.policy_id, parent)).digest
        except NotFound as error:
            raise refused(UploadReason.UNKNOWN_PARENT, problem) from error

    async def _convert(self, policy: PolicyRecord | NewPolicy, scratch: Path) -> "_Converted":
        facts = await self._catalog.base(policy.base)
        bases = set(await self._catalog.base_names())
        lora = None if isinstance(policy, NewPolicy) else policy.lora
        return await asyncio.to_thread(_convert, facts, bases, scratch, lora, self._max_update_ratio)

    async def _made(self, policy: PolicyRecord | NewPolicy, lora: LoraSpec) -> PolicyRecord:
        """Return the policy of an upload, made if it is new."""
        if isinstance(policy, PolicyRecord):
            return policy
        await self._catalog.check_room(policy.tenant_id, *_OF_A_REVISION)
        made = PolicyRecord(
            policy_id=PolicyId(new_id("pol")),
            tenant_id=policy.tenant_id,
            name=policy.name,
            base=policy.base,
            lora=lora,
            created_at=self._clock.now(),
            latest=None,
        )
        try:
            await self._catalog.add_policy(made)
        except AlreadyExists:  # by an upload beside this one; `_publish` checks its shape
            return await self._catalog.policy(policy.tenant_id, policy.name)
        return made

    async def _publish(self, policy: PolicyRecord, folder: Path, manifest: Manifest) -> RevisionRecord:
        check_export(export_of(policy, manifest, export_id="", claim=UNSTORED), policy, manifest)
        await asyncio.to_thread((folder / MANIFEST_FILE).write_bytes, write_manifest(manifest))
        try:
            known = await self._catalog.revision(policy.policy_id, manifest.digest)
        except NotFound:
            await self._catalog.check_room(policy.tenant_id, *_OF_A_REVISION)  # before anything is stored
            export_id = _export_id(manifest)
        else:
            if known.fault is None:
                return known
            # A new folder: blobs are never overwritten, and publication points the revision at the new bytes.
            export_id = new_id("export")
        claim = await store_folder(self._blobs, folder, manifest, export_id=export_id)
        export = export_of(policy, manifest, export_id=_export_id(manifest), claim=claim)
        size_bytes = adapter_bytes(manifest)
        await self._catalog.publish(export, now=self._clock.now(), size_bytes=size_bytes)
        return await self._catalog.revision(policy.policy_id, manifest.digest)


async def unstalled(
    body: AsyncIterator[bytes], rate: MinRate = UPLOAD_RATE, *, in_all: float = MAX_SECONDS
) -> AsyncGenerator[bytes, None]:
    """Yield a body's chunks. Raises UploadRefused when they come below the rate or after the time limit."""
    loop = asyncio.get_running_loop()
    ends_at, waiting = loop.time() + in_all, ClientWait(rate)
    while True:
        try:
            async with asyncio.timeout_at(ends_at):
                chunk = await waiting.wait_for(anext(body, None))
        except TimeoutError as error:
            problem = f"{waiting.passed_bytes} bytes came in {waiting.seconds:g} s"
            if loop.time() >= ends_at:
                problem = f"it did not end in {in_all:g} s"
            raise refused(UploadReason.STALLED, problem) from error
        if chunk is None:
            return
        waiting.passed_bytes += len(chunk)
        yield chunk


async def receive(body: AsyncIterator[bytes], folder: Path) -> None:
    """Write the files of a tar stream to a new folder. Raises UploadRefused."""
    await asyncio.to_thread(folder.mkdir)
    reader, seen = TarReader(), set[str]()
    path = folder / "none"
    async for chunk in body:
        for event in reader.feed(chunk):
            if isinstance(event, FileBegins):
                check_file(event.name, event.size_bytes, seen=seen)
                seen.add(event.name)
                path = folder / event.name
                await asyncio.to_thread(path.touch)
            elif isinstance(event, FilePart):
                await asyncio.to_thread(_append, path, event.data)
    reader.finish()
    check_files(seen)


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        if file.tell() == 0 and path.name == WEIGHTS_FILE:
            check_first_bytes(data)
        file.write(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Converted:
    """An adapter in MinT's own form, the LoRA of its policy, and warnings for its user."""

    manifest: Manifest
    lora: LoraSpec
    warnings: tuple[str, ...]


def _convert(
    facts: BaseFacts, bases: Collection[str], scratch: Path, lora: LoraSpec | None, max_ratio: float
) -> _Converted:
    given = scratch / "given"
    warnings = check_config((given / CONFIG_FILE).read_bytes(), facts, bases)
    origin = read_origin(facts, given, shape=shape_of(lora) if lora else None)
    lora = lora or lora_of(facts, origin)
    manifest = write_adapter(facts, origin, given, scratch / "adapter", layout=PACKED, max_ratio=max_ratio)
    return _Converted(manifest=manifest, lora=lora, warnings=(*warnings, *origin.notes))


def _export_id(manifest: Manifest) -> str:
    return derive_id("upload", manifest.policy_id, manifest.digest, manifest.step, manifest.parent or "")
