"""A wave becomes operations of its policy's log: which wave is due, what it appends, what is told of it."""

from dataclasses import replace

import msgspec
import pytest

from mint_common.claims import Claim, RevisionRef
from mint_common.datasets.formats import Format
from mint_common.errors import AlreadyHandled, Unavailable
from mint_common.events import JobSpec, LoraSpec, PolicyGradient, WaveCompleted
from mint_common.events.job import JobData, JobFile
from mint_common.ids import BaseName, Digest, JobId, PolicyId, TenantId, WaveId
from mint_common.training import Passed, Stepped
from services.trainer.core.mismatch_rules import BAND, Mismatch, MismatchChoice
from services.trainer.core.operations import TrainingSession
from services.trainer.core.refusals import WaveForeign
from services.trainer.core.wave_operations import (
    LoadRevision,
    NewWave,
    WaveExport,
    WavePass,
    adam_step,
    changes_state,
    check_turn,
    export_metrics,
    has_stepped,
    is_elsewhere,
    passes_of,
    plan_wave,
)
from tests.unit.trainer.managed import MANAGED

ONE, TWO = (Digest("sha256:" + digit * 64) for digit in "12")
MANIFEST = Claim(uri="revisions/p/manifest", sha256="0" * 64, size_bytes=1)
WAVE = WaveCompleted(
    tenant_id=TenantId("default"),
    base=BaseName("tiny"),
    wave_id=WaveId("wave_1"),
    job_id=JobId("job_1"),
    policy_id=PolicyId("policy_1"),
    step=1,
    revision=None,
    record=Claim(uri="waves/1", sha256="0" * 64, size_bytes=1),
    validation=None,
    reward_mean=0.0,
    lora=LoraSpec(rank=8, alpha=16.0, targets=("q_proj",), seed=0),
    spec=JobSpec(
        algorithm="grpo",
        task="mode:copy",
        steps=2,
        prompts_per_step=8,
        group_size=16,
        max_new_tokens=8,
        temperature=1.0,
        learning_rate=2e-3,
        kl_coefficient=0.0,
        clip_norm=1.0,
        seed=0,
    ),
)
SESSION = TrainingSession(
    policy_id=WAVE.policy_id,
    tenant_id=WAVE.tenant_id,
    base=WAVE.base,
    lora=WAVE.lora,
    metadata={},
    created_at=0.0,
    last_operation_at=0.0,
    is_managed=True,
)


def ref(digest: Digest) -> RevisionRef:
    return RevisionRef(digest=digest, number=1, manifest=MANIFEST)


def planned(
    wave: WaveCompleted = WAVE,
    *,
    latest: Digest | None = None,
    first_seq: int = 0,
    can_learn: bool = True,
    minibatches: int = 1,
    mismatch: Mismatch = "none",
) -> NewWave:
    algorithm = MANAGED.of(wave.spec)
    config = algorithm.training.config(wave.spec.kl_coefficient, mismatch)
    return plan_wave(
        wave,
        latest=latest,
        first_seq=first_seq,
        can_learn=can_learn,
        minibatches=minibatches,
        config=config,
        pulls=algorithm.pulls(config),
        now=7.0,
    )


@pytest.mark.parametrize("taken", [0, 1, 7])
@pytest.mark.parametrize("session", [None, SESSION])
def test_the_next_step_of_the_job_is_due(session: TrainingSession | None, taken: int) -> None:
    check_turn(session, replace(WAVE, step=taken + 1), taken_step=taken)


def test_a_wave_from_the_future_waits() -> None:
    with pytest.raises(Unavailable, match="step 3 is not due") as caught:
        check_turn(SESSION, replace(WAVE, step=3), taken_step=1)
    assert caught.value.retryable


def test_a_wave_of_the_past_is_handled_already() -> None:
    with pytest.raises(AlreadyHandled) as caught:
        check_turn(SESSION, replace(WAVE, step=2), taken_step=2)
    assert caught.value.cause == WAVE.id


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant_id": TenantId("other")},
        {"base": BaseName("other")},
        {"lora": replace(WAVE.lora, rank=4)},
    ],
)
def test_a_wave_of_another_tenant_base_or_shape_is_foreign(changes: dict[str, TenantId]) -> None:
    with pytest.raises(WaveForeign):
        check_turn(SESSION, replace(WAVE, **changes), taken_step=0)


def test_a_wave_is_three_operations() -> None:
    wave = planned(first_seq=5)
    assert wave.operations == {
        5: WavePass(record=WAVE.record, algorithm="grpo", config={"kl_coefficient": 0.0}),
        6: adam_step(learning_rate=2e-3, clip_norm=1.0),
        7: WaveExport(
            wave_id=WAVE.wave_id, job_id=WAVE.job_id, cause=WAVE.id, learning_rate=2e-3, measured=(5, 6)
        ),
    }
    assert (wave.job_step, wave.lora, wave.submitted_at) == (1, WAVE.lora, 7.0)
    rows = wave.stored()
    assert [(row.seq, row.kind) for row in rows] == [(5, "wave_pass"), (6, "step"), (7, "wave_export")]
    assert rows == planned(first_seq=5).stored()


VALIDATION = Claim(uri="jobs/1/validation", sha256="1" * 64, size_bytes=1)
DATA = JobData(
    training=JobFile(
        file_id="file-1",
        filename="chats.jsonl",
        content=Claim(uri="files/1", sha256="2" * 64, size_bytes=1),
        format=Format.CHAT,
        rows=16,
    ),
    epochs=1,
    on_long="refuse",
    grader=None,
    evaluation=None,
)


@pytest.mark.parametrize("algorithm", ["sft", "dpo", "kto"])
def test_a_wave_of_a_file_tells_its_accuracy_and_is_validated_behind_its_step(algorithm: str) -> None:
    spec = replace(WAVE.spec, algorithm=algorithm, group_size=1, data=DATA, kl_coefficient=0.3)
    wave = planned(replace(WAVE, spec=spec, validation=VALIDATION), first_seq=5)
    trained, step, measured, export = wave.operations.values()
    assert isinstance(trained, WavePass)
    assert isinstance(measured, WavePass)
    assert (trained.record, trained.backward, trained.is_file) == (WAVE.record, True, True)
    assert (measured.record, measured.backward, measured.is_file) == (VALIDATION, False, True)
    assert measured.config == trained.config == ({} if algorithm == "sft" else {"beta": 0.3})
    assert isinstance(export, WaveExport)
    assert export.measured == (5, 6, 7)
    assert [changes_state(one) for one in (trained, step, measured, export)] == [True, True, False, False]


def test_a_wave_of_a_task_is_stored_as_before_there_were_files() -> None:
    old = {"type": "wave_pass", "record": WAVE.record, "algorithm": "grpo", "config": {"kl_coefficient": 0.0}}
    assert planned().stored()[0].payload.data == msgspec.msgpack.encode(old)
    rewarded = planned(replace(WAVE, spec=replace(WAVE.spec, data=DATA)))
    assert rewarded.operations == planned().operations, "sampled answers have no accuracy"


def test_a_pass_has_the_gradient_of_its_job() -> None:
    gradient = PolicyGradient(loss="dppo", clip_low=0.1, clip_high=0.2)
    wave = planned(replace(WAVE, spec=replace(WAVE.spec, gradient=gradient)))
    first = wave.operations[0]
    assert isinstance(first, WavePass)
    assert (first.gradient, first.max_new_tokens) == (gradient, WAVE.spec.max_new_tokens)
    assert first.config == {"kl_coefficient": 0.0, "clip_low": 0.1, "clip_high": 0.2, "sampler_pull": 1e-3}
    assert msgspec.msgpack.decode(wave.stored()[0].payload.data, type=WavePass) == first


REUSING = PolicyGradient(loss="clip", clip_low=0.8, clip_high=1.2, epochs=2, minibatches=3)


def test_epochs_and_minibatches_are_a_pass_and_a_step_each_before_one_export() -> None:
    reusing = replace(WAVE, spec=replace(WAVE.spec, gradient=REUSING))
    *steps, export = planned(reusing, minibatches=2).operations.values()
    assert [(one.epoch, one.minibatch, one.minibatches) for one in steps[::2]] == [
        (epoch, number, 2) for epoch in (0, 1) for number in (0, 1)
    ]
    assert steps[1::2] == [adam_step(learning_rate=2e-3, clip_norm=1.0)] * 4
    assert (export.measured, export.epochs) == (tuple(range(8)), 2)
    probed = [*planned(reusing, can_learn=False).operations.values()]
    assert [type(one) for one in probed] == [WavePass, WaveExport]
    assert [has_stepped(export, seq) for seq in range(4)] == [False, False, True, True]
    assert passes_of(planned(reusing, minibatches=2).operations, WAVE.wave_id) == [0, 2, 4, 6]


def test_metrics_of_several_passes_are_reduced_as_their_names_say() -> None:
    *_, export = planned(replace(WAVE, spec=replace(WAVE.spec, gradient=REUSING))).operations.values()
    assert isinstance(export, WaveExport)
    passes = [
        Passed(
            logprobs=(),
            metrics={
                "loss:mean": number,
                "tokens:sum": 10.0,
                "ratio_max:max": number,
                "step_seconds:sum": 0.5,
                "ratio_max_error:max": number,
                "sampler_kl:mean": number,
            },
        )
        for number in (1.0, 4.0, 2.0, 3.0)
    ]
    steps = [Stepped(step=n, metrics={"grad_norm:mean": float(n), "learning_rate:mean": 0.1}) for n in (1, 2)]
    told = export_metrics(export, [*passes, *steps], export_seconds=0.25)
    expected = {"loss": 2.5, "tokens": 20.0, "ratio_max": 4.0, "step_seconds": 2.0, "grad_norm": 1.5}
    assert {name: told[name] for name in expected} == expected
    assert (told["ratio_max_error"], told["sampler_kl"]) == (1.0, 1.0), "of the weights that sampled"
    assert told["seconds"] == 2.25


def test_a_wave_in_which_nothing_can_be_learnt_has_no_step() -> None:
    wave = planned(can_learn=False)
    assert [type(one) for one in wave.operations.values()] == [WavePass, WaveExport]
    assert wave.operations[1].measured == (0,)  # type: ignore[union-attr]  # an export


@pytest.mark.parametrize(
    ("choice", "samplers", "rule"),
    [
        (MismatchChoice(chosen="auto"), {"float32"}, "none"),
        (MismatchChoice(chosen="auto"), {""}, "none"),
        (MismatchChoice(chosen="auto"), {"bfloat16"}, "truncated"),
        (MismatchChoice(chosen="auto"), {"float32", "float16"}, "truncated"),
        (MismatchChoice(chosen="auto", dtype="bfloat16"), {"bfloat16"}, "truncated"),
        (MismatchChoice(chosen="auto", dtype="bfloat16"), {"float32"}, "truncated"),
        (MismatchChoice(chosen="auto", dtype="bfloat16"), set(), "truncated"),
        (MismatchChoice(chosen="auto", picks_keys=True), {"bfloat16"}, "band"),
        (MismatchChoice(chosen="none", dtype="bfloat16"), {"float32"}, "none"),
        (MismatchChoice(chosen="truncated"), {"float32"}, "truncated"),
    ],
)
def test_the_dtypes_of_trainer_and_samplers_decide_what_becomes_of_a_mismatch(
    choice: MismatchChoice, samplers: set[str], rule: Mismatch
) -> None:
    assert choice.against(samplers) == rule


def test_a_wave_that_an_earlier_revision_of_its_job_sampled_continues_from_the_latest() -> None:
    """Read as other weights, it would throw the newer steps away."""
    ahead = replace(WAVE, step=3, revision=ref(ONE), spec=replace(WAVE.spec, staleness=2))
    *_, export = operations = [*planned(ahead, latest=TWO).operations.values()]
    assert not any(isinstance(one, LoadRevision) for one in operations)
    assert isinstance(export, WaveExport)
    assert export.is_stale
    passed = Passed(logprobs=(), metrics={"ratio_max_error:max": 0.5, "sampler_kl:mean": 0.2})
    metrics = export_metrics(export, [passed], export_seconds=0.5)
    assert {"ratio_max_error", "sampler_kl"}.isdisjoint(metrics)
    assert metrics["lag_kl"] == 0.2
    first = replace(ahead, step=1)
    assert isinstance(planned(first, latest=TWO).operations[0], LoadRevision)


def test_algorithm_and_mismatch_are_numbers_of_the_pass() -> None:
    band = planned(mismatch="band").operations[0]
    assert isinstance(band, WavePass)
    assert band.config == {"kl_coefficient": 0.0, "band_low": BAND[0], "band_high": BAND[1]}
    dpo = planned(replace(WAVE, spec=replace(WAVE.spec, algorithm="dpo", kl_coefficient=0.3)))
    assert dpo.operations[0] == WavePass(record=WAVE.record, algorithm="dpo", config={"beta": 0.3})


@pytest.mark.parametrize(
    ("step", "sampled", "latest", "elsewhere"),
    [
        (1, None, None, False),
        (1, ONE, ONE, False),
        (1, ONE, TWO, True),  # the last export was rejected, or its job cancelled
        (1, ONE, None, True),  # uploaded
        (1, None, ONE, True),  # rejected, and nothing was published before
        (2, None, ONE, False),  # within a job only what was published moves it
        (2, TWO, ONE, True),
    ],
)
def test_a_wave_goes_on_from_the_weights_that_sampled_it(
    step: int, sampled: Digest | None, latest: Digest | None, *, elsewhere: bool
) -> None:
    revision = ref(sampled) if sampled else None
    wave = replace(WAVE, step=step, revision=revision)
    assert is_elsewhere(latest, wave) is elsewhere
    first = planned(wave, latest=latest).operations[0]
    assert (first == LoadRevision(revision=revision)) is elsewhere
    export = [*planned(wave, latest=latest).operations.values()][-1]
    assert isinstance(export, WaveExport)
    assert export.measured == ((1, 2) if elsewhere else (0, 1))


@pytest.mark.parametrize(("step", "latest", "resets"), [(1, ONE, True), (1, TWO, True), (2, ONE, False)])
def test_a_job_that_resets_the_optimizer_does_so_at_its_first_step(
    step: int, latest: Digest, *, resets: bool
) -> None:
    spec = replace(WAVE.spec, optimizer="reset")
    wave = replace(WAVE, step=step, revision=ref(ONE), spec=spec)
    first = planned(wave, latest=latest).operations[0]
    assert (first == LoadRevision(revision=ref(ONE), resets_moments=True)) is resets


def test_metrics_are_those_of_the_pass_and_the_step() -> None:
    export = planned().operations[2]
    assert isinstance(export, WaveExport)
    passed = Passed(
        logprobs=(),
        metrics={"loss:mean": 0.5, "reward_mean:mean": 0.25, "kl:mean": 0.1, "step_seconds:sum": 1.5},
    )
    stepped = Stepped(step=3, metrics={"grad_norm:mean": 2.0, "learning_rate:mean": 2e-3})
    assert export_metrics(export, [passed, stepped], export_seconds=0.5) == {
        "loss": 0.5,
        "grad_norm": 2.0,
        "learning_rate": 2e-3,
        "reward_mean": 0.25,
        "kl": 0.1,
        "step_seconds": 1.5,
        "seconds": 2.0,
    }
    assert export_metrics(export, [passed], export_seconds=0.5)["grad_norm"] == 0.0
    measured = Passed(logprobs=(), metrics={"valid_loss:mean": 0.75, "valid_seconds:sum": 0.25})
    validated = export_metrics(export, [passed, stepped, measured], export_seconds=0.5)
    assert (validated["loss"], validated["valid_loss"]) == (0.5, 0.75)
    assert (validated["step_seconds"], validated["valid_seconds"], validated["seconds"]) == (1.5, 0.25, 2.25)
