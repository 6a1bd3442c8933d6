"""What is refused before it is stored, by the path of the field that is wrong."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.errors import InvalidField
from mint_common.events import LoraSpec
from mint_common.ids import BaseName, PolicyId, TenantId
from mint_common.training import (
    Array,
    CheckpointRef,
    Close,
    Datum,
    Distill,
    Export,
    Lesson,
    Load,
    Open,
    Operation,
    Pass,
    Save,
    Step,
    Submission,
)
from services.trainer.core.operation_check import check_submission

from .conftest import facts_of, random_model

POLICY = PolicyId("policy_a")
STEP = Step(learning_rate=1e-3, beta1=0.9, beta2=0.95, eps=1e-12, weight_decay=0.0, clip_norm=0.0)
SAVE = Save(name="one", overwrite=False, ttl_seconds=3600, metadata={"note": "x"})
EXPORT = Export(name=None, ttl_seconds=None, metadata={})
LORA = LoraSpec(rank=4, alpha=8.0, targets=("q_proj", "v_proj"), seed=0)
OPEN = Open(base=BaseName("random"), lora=LORA)
TRAINING = CheckpointRef(POLICY, "training", "one")
LOAD = Load(checkpoint=TRAINING, with_optimizer=True)


@pytest.fixture(scope="module")
def facts() -> BaseFacts:
    return facts_of(random_model("llama"))


def check(facts: BaseFacts, operation: Operation, *, seq: int | None = None) -> None:
    number = (0 if isinstance(operation, Open) else 1) if seq is None else seq
    check_submission(Submission(POLICY, TenantId("default"), number, operation), facts)


def array(values: object, kind: str = "f4") -> Array:
    made = np.asarray(values, kind)
    return Array(
        dtype="float32" if kind == "f4" else "int64", shape=made.shape, data=made.astype(f"<{kind}").tobytes()
    )


def datum(tokens: object = (1, 2, 3), **inputs: Array) -> Datum:
    return Datum(
        tokens=np.asarray(tokens, "<i4").tobytes(),
        inputs={"target_tokens": array((2, 3, 4), "i8"), **inputs},
    )


def pass_of(*data: Datum, loss: Any = "cross_entropy", config: Mapping[str, float] | None = None) -> Pass:
    return Pass(data=data, loss=loss, config=dict(config or {}), backward=True)


def ids(*tokens: int) -> bytes:
    return np.asarray(tokens, "<i4").tobytes()


def distill(temperature: float = 1.0, **changes: Any) -> Distill:
    whole = Lesson(ids(1, 2), ids(3), array((2, 3, 4), "i8"), array((1, 0, 1)))
    lesson = msgspec.structs.replace(whole, **changes)
    teacher = CheckpointRef(POLICY, "sampler", "one")
    return Distill(data=(whole, lesson), teacher=teacher, temperature=temperature)


REWARDED = {"logprobs": array((-1, -1, -1)), "advantages": array((1, 0, -1))}
SOUND: dict[str, Operation] = {
    "open": OPEN,
    "open from a checkpoint": msgspec.structs.replace(OPEN, checkpoint=TRAINING),
    "cross entropy": pass_of(datum()),
    "integer weights": pass_of(datum(weights=array((1, 0, 1), "i8"))),
    "several targets": pass_of(datum(target_tokens=array(((1, 2),) * 3, "i8"), weights=array(((1, 0),) * 3))),
    "ppo": pass_of(datum(**REWARDED), loss="ppo", config={"clip_low_threshold": 0.5}),
    "ppo, bounds of tokens": pass_of(datum(**REWARDED, clip_low_threshold=array((1, 1, 1))), loss="ppo"),
    "gspo": pass_of(datum(**REWARDED, sequence_ratio_mask=array((0, 1, 1))), loss="gspo"),
    "dro": pass_of(datum(**REWARDED), loss="dro", config={"beta": 0.1}),
    "distill": distill(),
    "distill to the end of the context": distill(student_tokens=ids(*[1] * 62)),
    "step": STEP,
    "save": SAVE,
    "export": EXPORT,
    "load": LOAD,
    "close": Close(),
}


@pytest.mark.parametrize("name", SOUND)
def test_what_is_sound_passes(name: str, facts: BaseFacts) -> None:
    check(facts, SOUND[name])


def step(**changes: float) -> Step:
    return msgspec.structs.replace(STEP, **changes)


def lora(**changes: Any) -> Open:
    return msgspec.structs.replace(OPEN, lora=replace(LORA, **changes))


TARGETS = "loss_fn_inputs.target_tokens"
BAD: dict[str, tuple[str, Operation]] = {
    "another base": ("base_model", msgspec.structs.replace(OPEN, base=BaseName("other"))),
    "rank 0": ("lora.rank", lora(rank=0)),
    "rank above the base's": ("lora.rank", lora(rank=17)),
    "alpha 0": ("lora.alpha", lora(alpha=0.0)),
    "alpha NaN": ("lora.alpha", lora(alpha=math.nan)),
    "an unknown target": ("lora.targets", lora(targets=("q_proj", "router"))),
    "no target": ("lora.targets", lora(targets=())),
    "open from a sampler checkpoint": (
        "path",
        msgspec.structs.replace(OPEN, checkpoint=CheckpointRef(POLICY, "sampler", "one")),
    ),
    "load of a sampler checkpoint": (
        "path",
        Load(checkpoint=CheckpointRef(POLICY, "sampler", "one"), with_optimizer=False),
    ),
    "no data": ("data", pass_of()),
    "no tokens": ("data[0].model_input", pass_of(datum(()))),
    "half a token": (
        "data[0].model_input",
        pass_of(Datum(tokens=b"\0" * 6, inputs={"target_tokens": array((1,), "i8")})),
    ),
    "longer than the context": ("data[1].model_input", pass_of(datum(), datum((1,) * 65))),
    "a negative token": ("data[1].model_input", pass_of(datum(), datum((1, -2, 3)))),
    "a token above the vocabulary": ("data[0].model_input", pass_of(datum((1, 40, 3)))),
    "a target above the vocabulary": (
        f"data[1].{TARGETS}",
        pass_of(datum(), datum(target_tokens=array((1, 2, 40), "i8"))),
    ),
    "no targets": (
        f"data[0].{TARGETS}",
        pass_of(Datum(tokens=np.asarray((1, 2, 3), "<i4").tobytes(), inputs={})),
    ),
    "targets as floats": (f"data[0].{TARGETS}", pass_of(datum(target_tokens=array((1, 2, 3))))),
    "fewer targets than tokens": (f"data[0].{TARGETS}", pass_of(datum(target_tokens=array((1, 2), "i8")))),
    "targets without width": (
        f"data[0].{TARGETS}",
        pass_of(datum(target_tokens=array(((), (), ()), "i8"))),
    ),
    "several targets for ppo": (
        f"data[0].{TARGETS}",
        pass_of(datum(target_tokens=array(((1, 2),) * 3, "i8"), **REWARDED), loss="ppo"),
    ),
    "weights of another shape": (
        "data[0].loss_fn_inputs.weights",
        pass_of(datum(weights=array((1, 1)))),
    ),
    "bytes that do not fit the shape": (
        "data[0].loss_fn_inputs.weights",
        pass_of(datum(weights=Array(dtype="float32", shape=(3,), data=b"\0" * 8))),
    ),
    "weights with NaN": (
        "data[1].loss_fn_inputs.weights",
        pass_of(datum(weights=array((1, 1, 1))), datum(weights=array((1, math.nan, 1)))),
    ),
    "an input of another loss": (
        "data[0].loss_fn_inputs.advantages",
        pass_of(datum(advantages=array((1, 1, 1)))),
    ),
    "no old log-probabilities": (
        "data[0].loss_fn_inputs.logprobs",
        pass_of(datum(advantages=array((1, 1, 1))), loss="importance_sampling"),
    ),
    "infinite advantages": (
        "data[0].loss_fn_inputs.advantages",
        pass_of(datum(**{**REWARDED, "advantages": array((1, math.inf, 1))}), loss="cispo"),
    ),
    "no beta": ("loss_fn_config.beta", pass_of(datum(**REWARDED), loss="dro")),
    "beta NaN": ("loss_fn_config.beta", pass_of(datum(**REWARDED), loss="dro", config={"beta": math.nan})),
    "an unknown number": (
        "loss_fn_config.clip",
        pass_of(datum(**REWARDED), loss="ppo", config={"clip": 1.0}),
    ),
    "nothing to distill": ("data", msgspec.structs.replace(distill(), data=())),
    "temperature 0": ("temperature", distill(0.0)),
    "temperature NaN": ("temperature", distill(math.nan)),
    "no prompt": ("data[1].student_input", distill(student_tokens=b"")),
    "half a token of a prompt": ("data[1].reference_input", distill(teacher_tokens=b"\0" * 6)),
    "a prompt that leaves no room": ("data[1].reference_input", distill(teacher_tokens=ids(*[1] * 63))),
    "a prompt above the vocabulary": ("data[1].student_input", distill(student_tokens=ids(40))),
    "lessons without targets": ("data[1].target_tokens", distill(target_tokens=array((), "i8"))),
    "lessons in two dimensions": (
        "data[1].target_tokens",
        distill(target_tokens=array(((1,), (2,)), "i8"), weights=array(((1,), (2,)))),
    ),
    "a lesson above the vocabulary": (
        "data[1].target_tokens",
        distill(target_tokens=array((1, 2, 40), "i8")),
    ),
    "fewer weights than targets": ("data[1].weights", distill(weights=array((1, 1)))),
    "infinite weights": ("data[1].weights", distill(weights=array((1, math.inf, 1)))),
    "a negative rate": ("adam_params.learning_rate", step(learning_rate=-1.0)),
    "an infinite rate": ("adam_params.learning_rate", step(learning_rate=math.inf)),
    "beta1 of 1": ("adam_params.beta1", step(beta1=1.0)),
    "beta2 above 1": ("adam_params.beta2", step(beta2=1.5)),
    "a negative eps": ("adam_params.eps", step(eps=-1e-9)),
    "decay NaN": ("adam_params.weight_decay", step(weight_decay=math.nan)),
    "a negative clip": ("adam_params.grad_clip_norm", step(clip_norm=-1.0)),
    "a name with a slash": ("path", msgspec.structs.replace(SAVE, name="../one")),
    "no name": ("path", msgspec.structs.replace(SAVE, name="")),
    "a long name": ("path", msgspec.structs.replace(SAVE, name="x" * 201)),
    "ttl 0": ("ttl_seconds", msgspec.structs.replace(SAVE, ttl_seconds=0)),
    "ttl of a century": ("ttl_seconds", msgspec.structs.replace(SAVE, ttl_seconds=10**10)),
    "large metadata": ("user_metadata", msgspec.structs.replace(SAVE, metadata={"x": "y" * 20_000})),
    "metadata NaN": ("user_metadata.x", msgspec.structs.replace(EXPORT, metadata={"x": math.nan})),
    "an export's bad name": ("path", msgspec.structs.replace(EXPORT, name="a b")),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named(name: str, facts: BaseFacts) -> None:
    field, operation = BAD[name]
    with pytest.raises(InvalidField) as refused:
        check(facts, operation)
    assert refused.value.field == field
    assert refused.value.http_status == 422


@pytest.mark.parametrize(("seq", "operation"), [(1, OPEN), (0, STEP), (-1, STEP), (-1, OPEN)])
def test_only_number_0_opens(seq: int, operation: Operation, facts: BaseFacts) -> None:
    with pytest.raises(InvalidField) as refused:
        check(facts, operation, seq=seq)
    assert refused.value.field == "seq"
