"""Long passes and large operations: a cancelled wave ends between runs, what waits is bounded in bytes."""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from mint_common.errors import Overloaded
from mint_common.events import RevisionExported, TrainingFailed, WaveCancelled
from mint_common.ids import PolicyId, TenantId
from mint_common.training import Passed
from services.trainer.adapters.policies import resident_policies
from services.trainer.core.operations import StoredOperation
from services.trainer.handlers import backlog, lease_term, operations

from .conftest import Stage, ref
from .operating import Run, make_pass, serving

A, B = PolicyId("policy_a"), PolicyId("policy_b")


async def test_what_waits_of_a_tenant_is_bounded_in_bytes_and_read_in_its_turn_also_by_the_next_trainer(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes are blobs here; a number that is missing holds them back."""
    for module in (lease_term, operations):
        monkeypatch.setattr(module, "INLINE_BYTES", 1000)
    works = [make_pass(seed, data=20) for seed in range(4)]
    sizes = [len(msgspec.msgpack.encode(work)) for work in works]
    monkeypatch.setattr(backlog, "TENANT_BYTES", sum(sizes) - 1)
    async with stage.trainer(hold_seconds=600.0) as trainer, serving(trainer) as client:
        run = Run(client, A)
        await run.open()
        run.seq += 1
        sent = [await run.send(work) for work in works[:3]]
        with pytest.raises(Overloaded, match="queue of the tenant"):
            await run.send(works[3])
        other = Run(client, B, tenant_id=TenantId("other"))
        await other.open()
        assert isinstance(await other.do(works[3]), Passed)
        assert trainer.terms.current is not None
        driver = trainer.terms.current.find(A)
        assert driver is not None
        kept = [driver._live[seq] for seq in sent]
        assert [isinstance(one, StoredOperation) for one in kept] == [False, True, True]
    async with stage.trainer(hold_seconds=0.5) as trainer, serving(trainer) as client:
        run = Run(client, A, seq=run.seq)
        found = [await run.result(seq) for seq in sent]
        for one, work in zip(found, works, strict=False):
            assert isinstance(one, Passed)
            assert len(one.logprobs) == len(work.data)
        await run.do(works[3])


async def test_a_cancelled_wave_ends_between_two_runs_of_its_pass_and_is_refused(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out_run, runs = resident_policies.carry_out_run, list[float]()

    def slowly(*args: Any, **options: Any) -> Any:
        runs.append(time.monotonic())
        time.sleep(0.3)
        return carry_out_run(*args, **options)

    async with stage.trainer(batch_tokens=8, microbatch_tokens=1) as trainer:
        await stage.publish(await stage.wave(1))
        (first,) = await stage.exported(1)
        policy = first.policy_id
        with monkeypatch.context() as patch:
            patch.setattr(resident_policies, "carry_out_run", slowly)
            wave = await stage.wave(2, revision=ref(first, 1))
            await stage.publish(wave)
            async with asyncio.timeout(60):
                while len(runs) < 2:
                    await asyncio.sleep(0.01)
            facts = {name: getattr(wave, name) for name in ("tenant_id", "base", "job_id", "policy_id")}
            await stage.publish(WaveCancelled(**facts, wave_id=wave.wave_id, reason="by its user"))
            failed = (await stage.expect(2))[1]
        assert isinstance(failed, TrainingFailed)
        assert (failed.wave_id, failed.code) == (wave.wave_id, "wave_stopped")
        assert len(runs) < 10
        await stage.publish(await stage.wave(1, job="job_next", revision=ref(first, 1)))
        next_one = (await stage.expect(3))[2]
        assert isinstance(next_one, RevisionExported)
        assert (next_one.step, next_one.parent) == (2, first.digest)
        assert trainer.terms.current is not None
        driver = trainer.terms.current.find(policy)
        assert driver is None or not driver.waiting
