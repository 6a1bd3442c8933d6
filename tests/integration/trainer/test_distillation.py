"""Distillation as an operation: from checkpoints of both kinds, in its order, and done once."""

import asyncio
from dataclasses import replace

import pytest

from mint_common.client.trainer import TrainerClient
from mint_common.events import LoraSpec
from mint_common.ids import PolicyId, TenantId
from mint_common.training import (
    UNNUMBERED,
    CheckpointRef,
    Distilled,
    Export,
    Passed,
    Save,
    Saved,
    Stepped,
    Submission,
)

from .conftest import LORA, Stage
from .operating import ADAM, TENANT, Run, make_distill, make_pass, serving

pytestmark = pytest.mark.integration

STUDENT, TEACHER = PolicyId("policy_student"), PolicyId("policy_teacher")
SAVE = Save(name="end", overwrite=False, ttl_seconds=None, metadata={})


async def taught(client: TrainerClient, lora: LoraSpec = LORA) -> tuple[CheckpointRef, CheckpointRef]:
    """Train a teacher; return its two checkpoints, of the same weights."""
    teacher = Run(client, TEACHER)
    await teacher.open(lora)
    for seed in range(3):
        await teacher.do(make_pass(seed))
        await teacher.do(ADAM)
    await teacher.do(SAVE)
    await teacher.do(Export(name="out", ttl_seconds=None, metadata={}))
    return CheckpointRef(TEACHER, "training", "end"), CheckpointRef(TEACHER, "sampler", "out")


async def test_a_policy_learns_from_a_teacher_of_another_shape(stage: Stage) -> None:
    lora = replace(LORA, rank=LORA.rank + 1)
    async with stage.trainer() as trainer, serving(trainer) as client:
        training, sampler = await taught(client, lora)
        run = Run(client, STUDENT)
        await run.open()
        first = await run.do(make_distill(1, training))
        again = await run.do(make_distill(1, sampler))
        assert isinstance(first, Distilled)
        assert isinstance(again, Distilled)
        assert again.losses == pytest.approx(first.losses, rel=1e-4)
        for _ in range(8):
            await run.do(ADAM)
            last = await run.do(make_distill(1, sampler))
        assert isinstance(last, Distilled)
        assert 0 < last.metrics["loss:sum"] < 0.7 * first.metrics["loss:sum"]


async def test_it_is_done_once_though_its_teacher_is_gone_when_the_trainer_starts_again(stage: Stage) -> None:
    saved = []
    for policy_id, ends in ((STUDENT, False), (PolicyId("policy_killed"), True)):
        async with stage.trainer() as trainer, serving(trainer) as client:
            training, _ = (
                (await taught(client)) if not saved else (CheckpointRef(TEACHER, "training", "end"), None)
            )
            run = Run(client, policy_id)
            await run.open()
            await run.do(make_pass(5))
            await run.do(make_distill(1, training))
            if ends:
                await client.delete_checkpoint(training)
            else:
                saved.append(await finish(run))
        if ends:
            async with stage.trainer() as trainer, serving(trainer) as client:
                run.client = client
                saved.append(await finish(run))
    assert saved[0] == saved[1]


async def finish(run: Run) -> str:
    """Take a step; return the digest of all that came of it."""
    assert isinstance(await run.do(ADAM), Stepped)
    ended = await run.do(SAVE)
    assert isinstance(ended, Saved)
    return ended.checkpoint.claim.sha256


async def test_without_a_number_it_takes_its_place_behind_what_has_arrived(stage: Stage) -> None:
    async with stage.trainer() as trainer, serving(trainer) as client:
        training, _ = await taught(client)
        run = Run(client, STUDENT)
        await run.open()
        pass_seq = await run.send(make_pass(5))
        distill = make_distill(1, training)
        numbers = [UNNUMBERED + 20, UNNUMBERED + 10]
        for seq in numbers:
            await client.submit(Submission(STUDENT, TENANT, seq, distill))
        assert isinstance(await run.do(ADAM), Stepped)
        assert isinstance(await run.result(pass_seq), Passed)
        first, second = await asyncio.gather(*map(run.result, numbers))
        assert isinstance(first, Distilled)
        assert first == second  # the step that came later had changed nothing yet
        assert await run.do(distill) != first


async def test_a_teacher_that_cannot_be_read_is_refused(stage: Stage) -> None:
    async with stage.trainer() as trainer, serving(trainer) as client:
        training, _ = await taught(client)
        run = Run(client, STUDENT, tenant_id=TenantId("other"))
        await run.open()
        refusal = await run.refusal(await run.send(make_distill(1, training)))
        assert refusal["code"] == "not_found"
        assert isinstance(await run.do(ADAM), Stepped)
