"""Finite numbers that no training reaches: refused at every way in, before anything of them is stored."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from contract.catalog_rig import BASE, LORA, Store, add_policy

from mint_common.adapters_format import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdapterFiles,
    build_adapter,
    peft_name,
    store_adapter,
)
from mint_common.adapters_format.tensor_file import write_tensors
from mint_common.blobs.localfs import LocalBlobs
from mint_common.catalog import PolicyRecord
from mint_common.errors import UploadRefused
from mint_common.events import RevisionExported, RevisionRejected
from mint_common.runtime.clock import SystemClock
from services.registry.handlers.exports import ExportHandler
from services.registry.handlers.store_identity import StoreIdentity
from services.registry.handlers.uploads import UploadHandler
from services.registry.settings import RegistrySettings
from tests.testing.adapters import make_tensors, tar_of

DEFAULT_RATIO = RegistrySettings.model_fields["max_update_ratio"].default
Tensors = Mapping[str, np.ndarray]


def one_weight(value: float) -> Tensors:
    tensors = {name: array.copy() for name, array in make_tensors(BASE).items()}
    tensors[peft_name("model.layers.1.mlp.down_proj", "B")][3, 1] = value
    return tensors


def all_weights(factor: float) -> Tensors:
    return {name: np.float32(factor) * array for name, array in make_tensors(BASE).items()}


BAD = {
    "one weight of 3e38": one_weight(3e38),
    "one weight of -3e38": one_weight(-3e38),
    "one weight of 65,536": one_weight(65536.0),
    "every weight a hundredfold": all_weights(100.0),
}


def files_of(policy: PolicyRecord, tensors: Tensors) -> AdapterFiles:
    return build_adapter(
        facts=BASE, policy_id=policy.policy_id, step=1, parent=None, rank=LORA.rank, tensors=tensors
    )


async def as_tar(tensors: Tensors) -> AsyncIterator[bytes]:
    config = {"peft_type": "LORA", "r": LORA.rank, "lora_alpha": LORA.rank, "base_model_name_or_path": "x"}
    yield tar_of({WEIGHTS_FILE: write_tensors(tensors), CONFIG_FILE: json.dumps(config).encode()})


@pytest.mark.parametrize("name", BAD)
async def test_an_upload_is_refused_with_what_to_do_and_leaves_nothing(
    store: Store, tmp_path: Path, name: str
) -> None:
    policy = await add_policy(store)
    handler = UploadHandler(
        catalog=store.catalog,
        blobs=LocalBlobs(tmp_path),
        clock=SystemClock(),
        max_update_ratio=DEFAULT_RATIO,
    )
    with pytest.raises(UploadRefused) as refused:
        await handler.upload(policy, as_tar(BAD[name]), step=1, parent=None)
    assert refused.value.code == "upload_refused.update_too_large"
    assert "Scale it down" in str(refused.value)
    assert [
        path for path in await asyncio.to_thread(lambda: list(tmp_path.rglob("*"))) if path.is_file()
    ] == []
    assert (await handler.upload(policy, as_tar(make_tensors(BASE)), step=1, parent=None)).number == 1


@pytest.mark.parametrize("name", BAD)
async def test_an_export_is_rejected(store: Store, tmp_path: Path, name: str) -> None:
    policy, blobs, clock = await add_policy(store), LocalBlobs(tmp_path), SystemClock()
    files = files_of(policy, BAD[name])
    export = RevisionExported(
        tenant_id=policy.tenant_id,
        base=policy.base,
        export_id="wave_1",
        policy_id=policy.policy_id,
        job_id=None,
        wave_id=None,
        digest=files.digest,
        manifest=await store_adapter(blobs, files, export_id="wave_1"),
        parent=None,
        step=1,
        metrics={},
    )
    exports = ExportHandler(
        catalog=store.catalog,
        identity=StoreIdentity(integrity=store.integrity, blobs=blobs),
        blobs=blobs,
        clock=clock,
        max_update_ratio=DEFAULT_RATIO,
    )
    await exports.on_revision_exported(export)
    *_, verdict = await store.events()
    assert isinstance(verdict, RevisionRejected)
    assert (verdict.code, "(update_too_large)" in verdict.reason) == ("adapter_invalid", True)
    assert not await store.catalog.revisions(policy.policy_id, limit=9, after=0)
