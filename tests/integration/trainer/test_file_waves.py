"""Waves of jobs on files: trained ranges, a schedule, and what a step is validated on."""

from dataclasses import replace

import pytest

from mint_common.events import RevisionExported, TrainingFailed
from mint_common.records import WaveRecord

from .conftest import FILE, Stage, masked, ref
from .test_bad_waves import out_of_vocabulary

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

NAMES = {
    "sft": {"valid_loss", "valid_mean_token_accuracy"},
    "dpo": {"valid_loss", "valid_mean_token_accuracy", "valid_reward_margin", "valid_reward_accuracy"},
    "kto": {"valid_loss", "valid_mean_token_accuracy", "valid_reward_margin"},
}


@pytest.mark.parametrize("algorithm", NAMES)
async def test_a_step_is_validated_when_its_wave_asks_for_it(stage: Stage, algorithm: str) -> None:
    spec = replace(FILE, algorithm=algorithm)
    # Of the rows that are trained on, the loss has to fall.
    validation = await stage.validation(seed=1)
    exports: list[RevisionExported] = []
    async with stage.trainer():
        for step in range(1, 5):
            wave = await stage.wave(
                step,
                record_seed=1,
                revision=ref(exports[-1], step) if exports else None,
                change=masked,
                spec=spec,
                validation=validation if step in {1, 4} else None,
            )
            await stage.publish(wave)
            exports = await stage.exported(step)
    told = [{name for name in one.metrics if name.startswith("valid_")} for one in exports]
    assert [one - {"valid_seconds"} for one in told] == [NAMES[algorithm], set(), set(), NAMES[algorithm]]
    rates = [one.metrics["learning_rate"] for one in exports]
    assert rates == pytest.approx([0.0, 2e-3, 2e-3 * 2 / 3, 2e-3 / 3])
    first, last = exports[0].metrics, exports[-1].metrics
    # The first step is that of a warm-up and changes nothing.
    assert first["valid_loss"] == pytest.approx(first["loss"], rel=1e-5)
    assert first["valid_mean_token_accuracy"] == pytest.approx(first["mean_token_accuracy"])
    assert last["valid_loss"] < first["valid_loss"]
    kinds = await stage.rows("SELECT kind FROM trainer.operations ORDER BY seq")
    validated = ["wave_pass", "step", "wave_pass", "wave_export"]
    plain = ["wave_pass", "step", "wave_export"]
    assert [row[0] for row in kinds] == [*validated, *plain, *plain, *validated]


def tied(record: WaveRecord) -> WaveRecord:
    groups = [
        replace(group, samples=tuple(replace(one, reward=1.0, logprobs=()) for one in group.samples))
        for group in record.groups
    ]
    return replace(record, groups=tuple(groups))


@pytest.mark.parametrize(
    ("algorithm", "change", "where"),
    [
        ("sft", out_of_vocabulary, "validation.groups[0].prompt_tokens"),
        ("dpo", tied, "validation.groups"),
        ("grpo", masked, "validation.groups"),
    ],
)
async def test_a_wave_that_cannot_be_validated_is_not_taken_in(
    stage: Stage, algorithm: str, change: object, where: str
) -> None:
    validation = await stage.validation(change=change)  # type: ignore[arg-type]  # one of the functions above
    spec = replace(FILE, algorithm=algorithm)
    kept = (lambda record: record) if algorithm == "grpo" else masked
    async with stage.trainer():
        await stage.publish(await stage.wave(1, change=kept, spec=spec, validation=validation))
        (failed,) = await stage.expect(1)
    assert isinstance(failed, TrainingFailed)
    assert (failed.code, f"at {where}:" in failed.reason) == ("record_invalid", True), failed.reason
    assert await stage.rows("SELECT 1 FROM trainer.operations") == []


async def test_after_a_refused_validation_the_policy_goes_on_from_a_revision(stage: Stage) -> None:
    validation = await stage.validation()
    constant = replace(FILE, schedule="constant", warmup_steps=0)
    async with stage.trainer():
        await stage.publish(await stage.wave(1, change=masked, spec=constant))
        (first,) = await stage.exported(1)
        # Weights of this size are finite, what the model makes of them is not.
        wild = replace(constant, learning_rate=1e30)
        await stage.publish(
            await stage.wave(2, revision=ref(first, 1), change=masked, spec=wild, validation=validation)
        )
        failed = (await stage.expect(2))[1]
        assert isinstance(failed, TrainingFailed)
        assert failed.code == "not_finite"
        for job in ("job_next", "job_after"):
            again = await stage.wave(
                1, job=job, record_seed=2, revision=ref(first, 1), change=masked, spec=constant
            )
            await stage.publish(again)
            await stage.expect(3 if job == "job_next" else 4)
    after, undisturbed = (await stage.expect(4))[2:]
    assert isinstance(after, RevisionExported)
    assert isinstance(undisturbed, RevisionExported)
    assert (after.parent, after.step) == (first.digest, 3)
    assert after.metrics["loss"] == undisturbed.metrics["loss"], "they begin at the same weights"
    refused = await stage.rows("SELECT seq, kind FROM trainer.operations WHERE is_refused ORDER BY seq")
    assert [tuple(row) for row in refused] == [(5, "wave_pass"), (6, "wave_export")]
    kinds = await stage.rows("SELECT kind FROM trainer.operations WHERE seq > 6 ORDER BY seq")
    assert [row[0] for row in kinds[:2]] == ["load_revision", "wave_pass"]
