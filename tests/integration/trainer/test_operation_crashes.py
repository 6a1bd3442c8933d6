"""kill -9 of the trainer at seeded points: every result and the state at the end are those of a calm run."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import pytest

from mint_common.client.trainer import TrainerClient
from mint_common.errors import NotFound, Unavailable
from mint_common.events import RevisionExported
from mint_common.ids import BaseName, PolicyId
from mint_common.training import (
    CheckpointRef,
    Close,
    Done,
    Export,
    Exported,
    Load,
    Open,
    Operation,
    Outcome,
    Pending,
    Save,
    Saved,
    Submission,
)
from services.standalone.adapters.launch import free_port

from .conftest import LORA, Stage
from .killing import MortalTrainer
from .operating import ADAM, TENANT, make_pass, serving, spoilt_pass

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

STEPS, KILLS = 6, 3
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, *range(100, 152)))]


def make_script(seed: int, policy_id: PolicyId) -> list[Operation]:
    """Return a session: passes, a refused one, steps, a save, a load of it, an export, and the end."""
    rng = random.Random(seed)
    script: list[Operation] = [Open(base=BaseName("tiny"), lora=LORA)]
    for step in range(STEPS):
        script += [make_pass(1000 * seed + 10 * step + n, data=2) for n in range(rng.randint(1, 3))]
        if rng.random() < 0.4:
            script.append(spoilt_pass(1000 * seed + step))
        script.append(ADAM)
        if step == 1:
            script.append(Save(name="early", overwrite=False, ttl_seconds=None, metadata={}))
        if step == 3:
            early = CheckpointRef(policy_id, "training", "early")
            script.append(Load(checkpoint=early, with_optimizer=rng.random() < 0.5))
            script.append(Export(name="middle", ttl_seconds=None, metadata={}))
    script.append(Save(name="end", overwrite=False, ttl_seconds=None, metadata={}))
    return [*script, Close()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a client was told in the end, without what names the policy or the time."""

    outcomes: Sequence[object]
    checkpoints: Sequence[str]
    exports: Sequence[str]


def told(outcomes: Sequence[Outcome]) -> Told:
    results = [one.result if isinstance(one, Done) else one for one in outcomes]
    return Told(
        outcomes=[
            msgspec.structs.replace(one, checkpoint=None, export_id="") if isinstance(one, Exported) else one
            for one in results
            if not isinstance(one, Saved)
        ],
        checkpoints=[one.checkpoint.claim.sha256 for one in results if isinstance(one, Saved)],
        exports=[one.digest for one in results if isinstance(one, Exported)],
    )


async def patiently_submit(client: TrainerClient, submission: Submission) -> None:
    while True:
        try:
            return await client.submit(submission)
        except Unavailable:
            await asyncio.sleep(0.02)


async def patiently_wait(client: TrainerClient, policy_id: PolicyId, seq: int) -> Outcome:
    while True:
        try:
            outcome = await client.outcome(policy_id, seq, wait_seconds=5)
        except (Unavailable, NotFound):  # it is away, or the operation is not sent yet
            await asyncio.sleep(0.02)
        else:
            if not isinstance(outcome, Pending):
                return outcome


async def train(client: TrainerClient, script: Sequence[Operation], policy_id: PolicyId) -> list[Outcome]:
    """Send everything as a client does that pipelines, and wait for every result."""

    async def send() -> None:
        for seq, operation in enumerate(script):
            await patiently_submit(client, Submission(policy_id, TENANT, seq, operation))

    sending = asyncio.ensure_future(send())
    outcomes = [await patiently_wait(client, policy_id, seq) for seq in range(len(script))]
    await sending
    return outcomes


async def kill_at(seed: int, trainer: MortalTrainer, stage: Stage) -> None:
    """Kill and start again, at moments that only the seed decides.

    The last kill waits until no operation is suspected: three ends of the trainer under one refuse it.
    """
    rng = random.Random(seed)
    suspected = "SELECT FROM trainer.operations WHERE finished_at IS NULL AND attempts > 0"
    for kill in range(1, KILLS + 1):
        await asyncio.sleep(rng.uniform(0.0, 0.5))
        while kill == KILLS and await stage.rows(suspected):
            await asyncio.sleep(0.05)
        trainer.kill()
        await trainer.start()


async def crash_and_compare(stage: Stage, seed: int) -> None:
    rng = random.Random(seed)
    snapshot_seconds = rng.choice((0.0, 0.05, 0.3, 60.0))
    calm_id, killed_id = PolicyId("policy_calm"), PolicyId("policy_killed")
    async with asyncio.timeout(200):
        async with stage.trainer() as trainer, serving(trainer) as client:
            calm = told(await train(client, make_script(seed, calm_id), calm_id))
        settings = stage.settings.model_copy(
            update={
                "snapshot_seconds": snapshot_seconds,
                "http_port": free_port(),
            }
        )
        mortal = MortalTrainer(settings)
        try:
            await mortal.start()
            client = mortal.client()
            async with asyncio.TaskGroup() as group:
                group.create_task(kill_at(seed, mortal, stage))
                training = group.create_task(train(client, make_script(seed, killed_id), killed_id))
            await client.aclose()
        finally:
            mortal.kill()
    assert told(training.result()) == calm
    exported = [one for one in stage.seen if isinstance(one, RevisionExported)]
    ids = {one.export_id for one in exported if one.policy_id == killed_id}
    assert ids <= {one.result.export_id for one in training.result() if _is_export(one)}


def _is_export(outcome: Outcome) -> bool:
    return isinstance(outcome, Done) and isinstance(outcome.result, Exported)


@pytest.mark.parametrize("seed", SEEDS)
async def test_kill_9_changes_no_bit(stage: Stage, seed: int) -> None:
    await crash_and_compare(stage, seed)
