"""Bulk ingest: many adapters in one batch, each checked like an export before it is stored.

Invariants: a refused adapter fails alone and stores nothing; a revision's row is committed after its
bytes are stored. Memory is bounded by one batch.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from mint_common.adapters_format import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdapterFiles,
    BaseFacts,
    check_adapter,
    store_adapter,
)
from mint_common.adapters_format.config import check_config
from mint_common.blobs.port import Blobs
from mint_common.catalog import PolicyRecord
from mint_common.claims import RevisionRef
from mint_common.errors import AdapterInvalid
from mint_common.events import RevisionExported
from mint_common.ids import new_id
from mint_common.runtime.clock import Clock
from services.registry.core.exports import UNSTORED, Refusal, check_export, export_of
from services.registry.ports.catalog import Catalog

STORED_AT_ONCE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAdapter:
    """An adapter in memory and its policy."""

    policy: PolicyRecord
    files: AdapterFiles


class BulkIngest:
    """Ingests batches of adapters."""

    def __init__(self, *, catalog: Catalog, blobs: Blobs, clock: Clock, max_update_ratio: float) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._clock = clock
        self._max_update_ratio = max_update_ratio

    async def ingest(
        self, adapters: Sequence[NewAdapter], *, announce: bool = True
    ) -> list[RevisionRef | Refusal]:
        """Publish a batch; return the revision of each adapter, or why it was refused, in order.

        ``announce`` False emits no events, for filling a catalog before it has consumers.
        """
        gate = asyncio.Semaphore(STORED_AT_ONCE)
        facts = {
            name: await self._catalog.base(name) for name in {adapter.policy.base for adapter in adapters}
        }
        taken = await asyncio.gather(
            *(self._take(adapter, facts[adapter.policy.base], gate) for adapter in adapters)
        )
        exports = [export for export in taken if isinstance(export, RevisionExported)]
        refs = iter(
            await self._catalog.publish_many(exports, now=self._clock.now(), announce=announce)
            if exports
            else ()
        )
        return [next(refs) if isinstance(found, RevisionExported) else found for found in taken]

    async def _take(
        self, adapter: NewAdapter, facts: BaseFacts, gate: asyncio.Semaphore
    ) -> RevisionExported | Refusal:
        export_id = new_id("export")
        async with gate:
            try:
                _check(adapter, facts, self._max_update_ratio)
            except AdapterInvalid as error:
                return Refusal(code=error.code, reason=str(error))
            manifest = await store_adapter(self._blobs, adapter.files, export_id=export_id)
        return export_of(adapter.policy, adapter.files.manifest, export_id=export_id, claim=manifest)


def _check(adapter: NewAdapter, facts: BaseFacts, max_ratio: float) -> None:
    manifest, files = adapter.files.manifest, adapter.files.files
    export = export_of(adapter.policy, manifest, export_id="", claim=UNSTORED)
    check_export(export, adapter.policy, manifest)
    check_config(manifest, files[CONFIG_FILE])
    check_adapter(facts, manifest, files[WEIGHTS_FILE], max_ratio=max_ratio)
