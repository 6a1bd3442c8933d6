"""kill -9 of the trainer at seeded points of its waves: every revision is that of a calm run, told once."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mint_common.client.http import InternalHttp
from mint_common.client.registry import RegistryClient
from mint_common.events import Event, PolicyGradient, RevisionExported, TrainingFailed, WaveCompleted
from mint_common.records import WaveRecord
from services.standalone.adapters.launch import free_port
from tests.processes import ServiceProcess

from .conftest import FILE, SPEC, Stage, masked, ref, trained
from .killing import MortalTrainer
from .test_bad_waves import wild
from .test_operation_crashes import kill_at

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

WAVES = 7
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, *range(100, 152)))]


REUSING = PolicyGradient(epochs=2, minibatches=2)


def wild_at_last(record: WaveRecord) -> WaveRecord:
    """Return a record of which only the last group cannot be trained on."""
    spoilt = wild(replace(record, groups=record.groups[::-1]))
    return replace(spoilt, groups=spoilt.groups[::-1])


def outcome_of(stage: Stage, wave: WaveCompleted) -> RevisionExported | TrainingFailed | None:
    """Return what came of a wave, once it did."""
    for event in stage.seen:
        if isinstance(event, RevisionExported | TrainingFailed) and event.wave_id == wave.wave_id:
            return event
    return None


async def train(stage: Stage, policy: str, *, seed: int) -> list[RevisionExported | TrainingFailed]:
    """Train some waves as a job does, each at the revision that the one before it led to.

    One teaches nothing, one is refused after a step on a part of it, and the job after that begins at an
    older revision. Some are of files, with ranges of trained tokens, and validated; the others may be trained
    on several times, in parts.
    """
    rng = random.Random(seed)
    algorithms = [rng.choice(("grpo", "sft", "dpo")) for _ in range(WAVES)]
    validation = await stage.validation()
    exports: list[RevisionExported] = []
    outcomes: list[RevisionExported | TrainingFailed] = []
    step = 0
    job = f"job_{policy}_0"
    for number in range(WAVES):
        step += 1
        if number == 5:
            step, job, exports = 1, f"job_{policy}_1", exports[:1]

        is_file = number in {1, 3, 6}

        def change(record: WaveRecord, *, number: int = number, is_file: bool = is_file) -> WaveRecord:
            return wild_at_last(record) if number == 4 else masked(record) if is_file else record

        wave = await stage.wave(
            step,
            policy=policy,
            job=job,
            record_seed=10 * seed + number,
            revision=ref(exports[-1], step) if exports else None,
            skipped=number == 2,
            change=change,
            spec=FILE if is_file else SPEC,
            validation=validation if is_file else None,
        )
        algorithm = "grpo" if number in {2, 4} else algorithms[number]
        if is_file and algorithm == "grpo":
            algorithm = "kto"
        gradient = REUSING if algorithm == "grpo" and number != 2 else None
        wave = replace(
            wave, spec=replace(wave.spec, algorithm=algorithm, kl_coefficient=0.1, gradient=gradient)
        )
        await stage.publish(wave)
        async with asyncio.timeout(120), stage.news:
            await stage.news.wait_for(lambda wave=wave: outcome_of(stage, wave) is not None)
        outcome = outcome_of(stage, wave)
        assert outcome is not None
        outcomes.append(outcome)
        if isinstance(outcome, RevisionExported):
            exports.append(outcome)
    return outcomes


def told(outcomes: Sequence[RevisionExported | TrainingFailed]) -> list[object]:
    """Return what does not name the policy, nor say how long it took."""
    return [
        one.code
        if isinstance(one, TrainingFailed)
        else (
            one.step,
            one.parent,
            one.digest,
            {name: value for name, value in one.metrics.items() if "seconds" not in name},
        )
        for one in outcomes
    ]


async def crash_and_compare(stage: Stage, environ: dict[str, str], log: Path, seed: int) -> None:
    async with asyncio.timeout(200):
        async with stage.trainer():
            calm = told(await train(stage, "policy_calm", seed=seed))
        settings = stage.settings.model_copy(
            update={
                "snapshot_seconds": random.Random(seed).choice((0.0, 0.05, 0.3, 60.0)),
                "http_port": free_port(),
                "peers": stage.settings.peers.model_copy(
                    update={"registry_url": environ["MINT_PEERS_REGISTRY_URL"]}
                ),
            }
        )
        mortal = MortalTrainer(settings)
        try:
            async with ServiceProcess("registry", environ, log).running():
                await mortal.start()
                async with asyncio.TaskGroup() as group:
                    group.create_task(kill_at(seed, mortal, stage))
                    training = group.create_task(train(stage, "policy_killed", seed=seed))
                async with InternalHttp(environ["MINT_PEERS_REGISTRY_URL"], token="secret") as registry:
                    bases = await RegistryClient(registry).list_bases()
        finally:
            mortal.kill()
    assert told(training.result()) == calm
    assert [base.name for base in bases] == ["tiny"]
    calm_log, killed_log = await trained(stage)
    assert killed_log == calm_log
    assert "not_finite" in calm
    assert len({event.id for event in stage.seen}) == 2 * WAVES
    assert len(distinct(stage.seen)) == 2 * WAVES, "an event was told twice with other content"
    assert await stage.rows("SELECT 1 FROM trainer.operations WHERE finished_at IS NULL") == []


def distinct(events: Sequence[Event]) -> list[Event]:
    found: list[Event] = []
    for event in events:
        if event not in found:
            found.append(event)
    return found


@pytest.mark.parametrize("seed", SEEDS)
async def test_kill_9_changes_no_revision(
    stage: Stage, environ: dict[str, str], tmp_path: Path, seed: int
) -> None:
    await crash_and_compare(stage, environ, tmp_path / "registry.log", seed)
