"""Exports: check the stored adapter, then commit the verdict.

Invariants: an adapter is published only after all of its bytes were checked against its base and its policy.
Missing bytes are looked up again for minutes, in the catalog's own store, before the export is rejected.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from mint_common.adapters_format import Manifest, check_folder, check_manifest, fetch_manifest, stage_adapter
from mint_common.blobs.port import Blobs
from mint_common.errors import AdapterInvalid, BlobCorrupt, BlobMissing, InvalidField, NotFound
from mint_common.events import Event, RevisionExported, WaveCancelled
from mint_common.runtime.clock import Clock
from mint_common.runtime.retries import Bury
from services.registry import metrics
from services.registry.adapters.catalog_postgres import PostgresCatalog
from services.registry.core.exports import Refusal, check_export
from services.registry.core.quotas import adapter_bytes
from services.registry.handlers.scratch import TEMPORARY, Scratch
from services.registry.handlers.store_identity import StoreIdentity

_log = logging.getLogger(__name__)


class ExportMissing(BlobMissing):
    """No blob at {uri!r}."""

    retryable = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportHandler:
    """Publishes or rejects exported adapters."""

    catalog: PostgresCatalog
    identity: StoreIdentity
    blobs: Blobs
    clock: Clock
    max_update_ratio: float
    scratch: Scratch = TEMPORARY

    async def on_revision_exported(self, event: RevisionExported) -> Sequence[Event]:
        """Publish or reject an export; the verdict's event is in the outbox."""
        refusal, size_bytes = None, 0
        await self.identity.confirm_first()
        began = self.clock.monotonic()
        try:
            size_bytes = adapter_bytes(await self._check(event))
        except BlobMissing as error:
            await self.identity.confirm()
            raise ExportMissing(uri=error.uri) from error
        except (AdapterInvalid, BlobCorrupt, InvalidField, NotFound) as error:
            refusal = Refusal(code=error.code, reason=str(error))
        metrics.CHECK_SECONDS.observe(self.clock.monotonic() - began)
        await self._settle(event, refusal, size_bytes)
        return ()

    async def on_export_given_up(self, event: RevisionExported, decision: Bury) -> None:
        """Reject an export that cannot be checked, so that no job waits for a verdict."""
        await self._settle(event, Refusal(code=decision.code, reason=decision.reason))

    async def on_wave_cancelled(self, event: WaveCancelled) -> Sequence[Event]:
        """Let no export of the wave be published: it may be trained on already."""
        await self.catalog.refuse_exports_of(event)
        return ()

    async def _settle(self, event: RevisionExported, refusal: Refusal | None, size_bytes: int = 0) -> None:
        await self.catalog.settle_export(event, refusal, now=self.clock.now(), size_bytes=size_bytes)
        metrics.EXPORTS.labels("rejected" if refusal else "published").inc()
        fields = {"policy_id": event.policy_id, "digest": event.digest, "export_id": event.export_id}
        if refusal:
            _log.warning(
                "revision rejected", extra={**fields, "code": refusal.code, "reason": refusal.reason}
            )
        else:
            _log.info("revision published", extra=fields)

    async def _check(self, export: RevisionExported) -> Manifest:
        policy = await self.catalog.policy(export.tenant_id, export.policy_id)
        facts = await self.catalog.base(policy.base)
        manifest = await fetch_manifest(self.blobs, export.manifest)
        # The manifest is checked before the weights are fetched.
        check_manifest(facts, manifest)
        check_export(export, policy, manifest)
        async with self.scratch.folder("export-") as scratch:
            folder = scratch / "adapter"
            await stage_adapter(self.blobs, export.manifest, folder)
            max_ratio = self.max_update_ratio
            await asyncio.to_thread(check_folder, facts, manifest, folder, max_ratio=max_ratio)
        return manifest
