"""Operations over HTTP, on real Postgres and blobs: durable, in order, each with a result of its own."""

from collections.abc import AsyncIterator

import pytest

from mint_common.client.trainer import TrainerClient
from mint_common.errors import NotFound
from mint_common.events import RevisionExported
from mint_common.ids import PolicyId, TenantId
from mint_common.training import (
    CheckpointRef,
    Close,
    Closed,
    Export,
    Exported,
    Load,
    Loaded,
    Opened,
    Passed,
    Save,
    Saved,
    Stepped,
)

from .conftest import Stage
from .operating import ADAM, TENANT, Run, make_pass, serving

pytestmark = pytest.mark.integration


@pytest.fixture
async def client(stage: Stage) -> AsyncIterator[TrainerClient]:
    async with stage.trainer() as trainer, serving(trainer) as client:
        yield client


async def test_every_operation_works_end_to_end(stage: Stage, client: TrainerClient) -> None:
    run = Run(client, PolicyId("policy_a"))
    assert await run.open() == Opened(step=0)
    passed = await run.do(make_pass(1))
    assert isinstance(passed, Passed)
    assert passed.metrics["loss:sum"] > 0
    assert [array.shape for array in passed.logprobs] == [
        datum.inputs["target_tokens"].shape for datum in make_pass(1).data
    ]
    stepped = await run.do(ADAM)
    assert isinstance(stepped, Stepped)
    assert stepped.step == 1
    saved = await run.do(Save(name="one", overwrite=False, ttl_seconds=None, metadata={"note": "x"}))
    assert isinstance(saved, Saved)
    exported = await run.do(Export(name="first", ttl_seconds=None, metadata={}))
    assert isinstance(exported, Exported)
    (event,) = await stage.expect(1)
    assert isinstance(event, RevisionExported)
    assert (event.export_id, event.digest) == (exported.export_id, exported.digest)
    ref = CheckpointRef(run.policy_id, "training", "one")
    assert await run.do(Load(checkpoint=ref, with_optimizer=True)) == Loaded(step=1)
    assert await run.do(Close()) == Closed()

    session = await client.session(run.policy_id)
    assert (session.step, session.closed_at is None) == (1, False)
    page = await client.checkpoints(TENANT)
    assert [(record.kind, record.name) for record in page] == [("sampler", "first"), ("training", "one")]
    assert await client.checkpoint(ref) == saved.checkpoint
    other = TenantId("other")
    with pytest.raises(NotFound):
        await client.copy_checkpoint(ref, replace_name(ref, "two"), tenant_id=other, ttl_seconds=3600)
    assert (await client.publish_checkpoint(ref, is_public=True)).is_public
    copied = await client.copy_checkpoint(ref, replace_name(ref, "two"), tenant_id=other, ttl_seconds=3600)
    assert (copied.tenant_id, copied.claim) == (other, saved.checkpoint.claim)
    assert (await client.expire_checkpoint(ref, ttl_seconds=60)).expires_at is not None
    await client.delete_checkpoint(ref)
    with pytest.raises(NotFound):
        await client.checkpoint(ref)
    assert await stage.blobs.exists(saved.checkpoint.claim.uri)
    await client.delete_checkpoint(replace_name(ref, "two"))
    assert not await stage.blobs.exists(saved.checkpoint.claim.uri)


def replace_name(ref: CheckpointRef, name: str) -> CheckpointRef:
    return CheckpointRef(ref.policy_id, ref.kind, name)
