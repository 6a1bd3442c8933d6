"""An algorithm that a stack adds by import path is trained like those built in."""

from dataclasses import replace

import pytest

from mint_common.events import PolicyParked, RevisionExported, TrainingFailed
from mint_common.settings import AlgorithmSettings
from services.trainer.app import open_trainer

from .conftest import FILE, SPEC, Stage, masked, ref

pytestmark = pytest.mark.integration

IPO = AlgorithmSettings(custom=("examples.ipo.algorithm:ALGORITHM",))
PAIRS = replace(FILE, algorithm="ipo", kl_coefficient=0.2, warmup_steps=0, learning_rate=2e-4)


async def test_a_custom_algorithm_is_trained_and_validated(stage: Stage) -> None:
    stage.settings = stage.settings.model_copy(update={"algorithms": IPO})
    rows = await stage.validation()
    async with stage.trainer():
        first_wave = await stage.wave(1, spec=PAIRS, change=masked, record_seed=7, validation=rows)
        await stage.publish(first_wave)
        (first,) = await stage.exported(1)
        again = {"spec": PAIRS, "change": masked, "record_seed": 7}
        await stage.publish(await stage.wave(2, revision=ref(first, 1), **again))  # type: ignore[arg-type]
        second = (await stage.exported(2))[1]
    # Policy and base are equal at first, so each pair is 1 / (2 beta) from its target.
    assert first.metrics["loss"] == pytest.approx((1 / (2 * 0.2)) ** 2, rel=1e-3)
    assert first.metrics["preference_margin"] == pytest.approx(0.0, abs=1e-3)
    assert {"valid_loss", "valid_reward_margin"} <= first.metrics.keys()
    assert second.metrics["preference_margin"] > 0
    assert second.metrics["loss"] < first.metrics["loss"]


async def test_a_trainer_replays_the_waves_of_a_custom_algorithm(stage: Stage) -> None:
    stage.settings = stage.settings.model_copy(update={"algorithms": IPO, "snapshot_seconds": 1e6})
    async with stage.trainer():
        await stage.publish(await stage.wave(1, spec=PAIRS, change=masked))
        (first,) = await stage.exported(1)
    async with stage.trainer():
        await stage.publish(await stage.wave(2, spec=PAIRS, change=masked, revision=ref(first, 1)))
        second = (await stage.exported(2))[1]
    assert (second.step, second.parent) == (2, first.digest)


async def test_a_wave_of_an_unknown_algorithm_fails_its_job_only(stage: Stage) -> None:
    async with stage.trainer():
        await stage.publish(await stage.wave(1, spec=PAIRS, change=masked))
        await stage.publish(await stage.wave(1, policy="policy_b", spec=SPEC))
        events = await stage.expect(2)
    failed = next(event for event in events if isinstance(event, TrainingFailed))
    assert (failed.policy_id, failed.code) == ("policy_a", "algorithm_unknown")
    assert "neither built in nor named in MINT_ALGORITHMS_CUSTOM" in failed.reason


async def test_a_trainer_does_not_start_with_a_path_that_it_cannot_import(stage: Stage) -> None:
    wrong = AlgorithmSettings(custom=("examples.ipo.nothing:ALGORITHM",))
    with pytest.raises(Exception, match=r"MINT_ALGORITHMS_CUSTOM: cannot import .examples\.ipo\.nothing"):
        async with open_trainer(stage.settings.model_copy(update={"algorithms": wrong})):
            pass


async def test_a_policy_waits_for_a_trainer_that_knows_the_algorithm_of_its_log(stage: Stage) -> None:
    stage.settings = stage.settings.model_copy(update={"snapshot_seconds": 1e6})
    knowing = stage.settings.model_copy(update={"algorithms": IPO})
    without, stage.settings = stage.settings, knowing
    async with stage.trainer():
        await stage.publish(await stage.wave(1, spec=PAIRS, change=masked))
        (first,) = await stage.exported(1)
    stage.settings = without
    async with stage.trainer():
        await stage.publish(await stage.wave(1, job="job_next", spec=SPEC, revision=ref(first, 1)))
        parked = (await stage.expect(2))[1]
    assert isinstance(parked, PolicyParked)
    assert (parked.code, "'ipo' is neither built in nor named" in parked.reason) == ("unreadable", True)
    stage.settings = knowing
    async with stage.trainer():
        last = (await stage.expect(3))[2]
    assert isinstance(last, RevisionExported)
    assert (last.step, last.parent) == (2, first.digest)
