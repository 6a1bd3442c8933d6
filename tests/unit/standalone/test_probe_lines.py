"""What a probe's findings amount to."""

import math
from pathlib import Path

import msgspec
import pytest

from mint_common.adapters_format.base_facts import ProbeLine, ProbeResult
from mint_common.probing import (
    COMPARED,
    TRAINER,
    Difference,
    EngineFindings,
    HandOver,
    TrainerFindings,
    read_probe,
    write_probe,
)
from services.standalone.core.probe_lines import advice, failed_lines, probe_lines

TARGETS = ("k_proj", "q_proj", "v_proj")
RIGHT = TrainerFindings(
    outputs=4e-6, shared=3e-6, gradients=1e-6, effect=1.0, chats=((1, 2), (3,)), targets=TARGETS
)
ANSWERED = EngineFindings(chats=((1, 2), (3,)))
SMALL = Difference(reference=5e-6, trainer=6e-6, effect=0.5)


def compared(**others: Difference) -> HandOver:
    return HandOver(differences={**dict.fromkeys(("", "a", "b", *TARGETS), SMALL), **others})


def lines(
    trainer: TrainerFindings = RIGHT,
    engine: EngineFindings = ANSWERED,
    found: HandOver | None = None,
    kinds: tuple[str, ...] = (),
) -> dict[str, tuple[str, str]]:
    whole = probe_lines(trainer, engine, found or compared(), kinds=kinds)
    return {line.part: (line.status, line.note) for line in whole}


def result_of(whole: tuple[ProbeLine, ...]) -> ProbeResult:
    return ProbeResult(lines=whole, dtype="float32", small="", seconds=1.0)


def test_a_base_that_is_right_has_only_lines_that_are_ok() -> None:
    assert {status for status, _ in lines().values()} == {"ok"}


def test_a_target_that_is_wrong_alone_is_named_and_the_others_are_offered() -> None:
    found = compared(q_proj=Difference(reference=1.2, effect=0.8), a=Difference(reference=1.3, trainer=1.3))
    whole = probe_lines(RIGHT, ANSWERED, found, kinds=())
    result = result_of(whole)
    assert [line.part for line in failed_lines(result)] == ["engine", "each target", "hand-over"]
    assert "q_proj is 1.2e+00 off" in failed_lines(result)[1].note
    assert "--targets k_proj,v_proj" in advice(result)


def test_a_base_that_only_its_trainer_gets_wrong_may_be_served() -> None:
    whole = probe_lines(
        TrainerFindings(problem="KeyError: 'x'", targets=TARGETS), ANSWERED, compared(), kinds=()
    )
    result = result_of(whole)
    assert failed_lines(result)
    assert not failed_lines(result, serve_only=True)
    assert advice(result) == "`--serve-only` adds it without a trainer"


def test_a_base_that_only_the_engine_gets_wrong_may_be_trained() -> None:
    dead = EngineFindings(problem="AssertionError: no sigmoid routing")
    result = result_of(probe_lines(RIGHT, dead, None, kinds=()))
    assert [line.part for line in failed_lines(result)] == ["engine"]
    assert not failed_lines(result, train_only=True)
    assert advice(result) == "`--train-only` adds it without an engine"
    both = result_of(probe_lines(TrainerFindings(problem="KeyError"), dead, None, kinds=()))
    assert advice(both) == "`--no-probe` adds it as it is, at your own risk"


def test_what_the_engine_refuses_is_said_in_its_own_words() -> None:
    engine = msgspec.structs.replace(ANSWERED, refused={"q_proj": "the engine has no LoRA for it"})
    assert lines(engine=engine)["each target"] == ("failed", "the engine has no LoRA for it")


def test_an_engine_that_does_not_start_is_one_line_with_its_error() -> None:
    found = lines(engine=EngineFindings(problem="AssertionError: CPU GDN attention requires BF16."))
    assert found["engine"] == ("failed", "AssertionError: CPU GDN attention requires BF16.")
    assert "each target" not in found
    assert found["trainer"][0] == "ok"


def test_prompts_of_layers_with_a_state_are_not_shared() -> None:
    found = lines(trainer=msgspec.structs.replace(RIGHT, shared=None))
    assert found["shared prompts"][0] == "left out"


@pytest.mark.parametrize(
    ("kinds", "dtype", "own", "nats", "status"),
    [
        ((), "float32", 0.0, 2e-4, "failed"),
        (("mamba", "full_attention"), "float32", 0.0, 2e-4, "ok"),
        (("linear_attention", "full_attention"), "bfloat16", 0.06, 0.11, "ok"),
        (("linear_attention", "full_attention"), "bfloat16", 0.06, 0.13, "failed"),
    ],
)
def test_a_limit_is_by_kinds_and_dtype(
    kinds: tuple[str, ...], dtype: str, own: float, nats: float, status: str
) -> None:
    found = compared(a=Difference(reference=nats, trainer=nats, own=own))
    engine = msgspec.structs.replace(ANSWERED, dtype=dtype)
    assert lines(engine=engine, found=found, kinds=kinds)["engine"][0] == status


def test_gradients_that_are_wrong_fail_the_trainer() -> None:
    status, note = lines(trainer=msgspec.structs.replace(RIGHT, gradients=0.2))["trainer"]
    assert (status, note) == ("failed", "gradients are 2e-01 of the largest off")


def test_a_conversation_that_is_rendered_otherwise_is_a_failure() -> None:
    found = lines(engine=EngineFindings(chats=((1, 2), (4,))))
    assert found["chat template"][0] == "failed"
    neither = lines(trainer=msgspec.structs.replace(RIGHT, chats=(None, None)))
    assert neither["chat template"][0] == "left out"


def test_a_base_that_is_wrong_without_an_adapter_is_said_to_be() -> None:
    found = lines(found=compared(**{"": Difference(reference=0.8, trainer=0.8)}))
    assert found["engine"] == ("failed", "the base without an adapter is 8.0e-01 off")
    assert found["each target"][0] == "left out"


def test_adapters_that_the_engine_refuses_leave_a_verdict_on_the_base() -> None:
    engine = msgspec.structs.replace(ANSWERED, refused={"a": "no q_proj", "b": "no q_proj", "q_proj": "no"})
    alone = msgspec.structs.replace(SMALL, routed=1e-6)
    found = HandOver(differences={"": alone, "k_proj": SMALL, "v_proj": SMALL})
    assert lines(engine=engine, found=found) == {
        **lines(),
        "engine": ("failed", "no q_proj"),
        "each target": ("failed", "no"),
        "hand-over": ("failed", "no q_proj"),
        "routes": ("ok", ""),
    }


@pytest.mark.parametrize("name", ["outputs", "shared", "gradients", "shared_gradients"])
def test_what_a_trainer_computes_as_nan_is_wrong_through_its_file(name: str, tmp_path: Path) -> None:
    write_probe(tmp_path, TRAINER, msgspec.structs.replace(RIGHT, **{name: math.nan}))
    read = read_probe(tmp_path, TRAINER, TrainerFindings)
    assert read is not None
    assert "failed" in {status for status, _ in lines(read).values()}


@pytest.mark.parametrize("name", ["reference", "trainer"])
def test_what_an_engine_answers_as_nan_is_wrong_through_its_file(name: str, tmp_path: Path) -> None:
    wrong = compared(a=msgspec.structs.replace(SMALL, **{name: math.nan}))
    write_probe(tmp_path, COMPARED, wrong)
    read = read_probe(tmp_path, COMPARED, HandOver)
    assert "failed" in {status for status, _ in lines(found=read).values()}
