"""Validates an operation before it is stored; errors name the path of the field.

Nothing is executed that was not checked here, so that a bad datum is its sender's error at once and never
reaches a batch that others share.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.names import PACKED
from mint_common.errors import InvalidField
from mint_common.training import (
    Array,
    CheckpointRef,
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
from services.trainer.core.datum_lines import floats_of
from services.trainer.core.layout_check import check_fits, check_layout
from services.trainer.core.losses.loss import TokenLoss
from services.trainer.core.losses.table import PASS_LOSSES
from services.trainer.core.refusals import LoraInvalid

MAX_METADATA_BYTES = 16 * 1024
MAX_TEMPERATURE = 1e3
MAX_TTL_SECONDS = 10 * 366 * 86400
_ITEM_BYTES = {"int64": 8, "float32": 4}
_NAME = re.compile(r"[A-Za-z0-9._~@:+=-]{1,200}", re.ASCII)


def check_submission(submission: Submission, facts: BaseFacts, *, layout: str = PACKED) -> None:
    """Raise InvalidField for the first thing that is wrong. ``layout`` is that of exports."""
    operation = submission.operation
    if submission.seq < 0 or isinstance(operation, Open) != (submission.seq == 0):
        raise InvalidField(
            field="seq", problem=f"{submission.seq}: 0 opens, the operations after it count on"
        )
    _check_operation(operation, facts, layout)


def _check_operation(operation: Operation, facts: BaseFacts, layout: str) -> None:
    match operation:
        case Open():
            _check_open(operation, facts, layout)
        case Pass():
            _check_pass(operation, facts)
        case Distill():
            _check_distill(operation, facts)
        case Step():
            _check_step(operation)
        case Save() | Export():
            if operation.name is not None:
                check_name(operation.name, field="path")
            check_ttl(operation.ttl_seconds)
            _check_metadata(operation.metadata)
        case Load():
            _check_source(operation.checkpoint)


def check_name(name: str, *, field: str) -> None:
    """Check the name of a checkpoint. Raises InvalidField."""
    if not _NAME.fullmatch(name):
        problem = f"a name is 1 to 200 of [A-Za-z0-9._~@:+=-], found {name[:80]!r}"
        raise InvalidField(field=field, problem=problem)


def check_copy(source: CheckpointRef, target: CheckpointRef) -> None:
    """Check a checkpoint's copy target. Raises InvalidField."""
    check_name(target.name, field="target")
    if target.kind != source.kind:
        raise InvalidField(field="target", problem=f"a {source.kind} checkpoint is copied to {target.kind}")


def check_ttl(ttl_seconds: int | None) -> None:
    """Check how long a checkpoint shall live. Raises InvalidField."""
    if ttl_seconds is not None and not 0 < ttl_seconds <= MAX_TTL_SECONDS:
        problem = f"{ttl_seconds} is outside 1..{MAX_TTL_SECONDS}"
        raise InvalidField(field="ttl_seconds", problem=problem)


def _check_open(operation: Open, facts: BaseFacts, layout: str) -> None:
    if operation.base != facts.name:
        raise InvalidField(field="base_model", problem=f"{operation.base!r}, this trainer has {facts.name!r}")
    try:
        check_fits(operation.lora, facts)
        check_layout(layout, operation.lora, facts)
    except LoraInvalid as error:
        raise InvalidField(field=f"lora.{error.field}", problem=str(error.problem)) from error
    _check_metadata(operation.metadata)
    if operation.checkpoint is not None:
        _check_source(operation.checkpoint)
    if operation.checkpoint is not None and operation.mixture:
        raise InvalidField(field="mixture", problem="and a checkpoint exclude each other")
    for index, part in enumerate(operation.mixture):
        if not math.isfinite(part.coefficient):
            raise InvalidField(field=f"coefficients[{index}]", problem=f"{part.coefficient} is not finite")


def _check_source(checkpoint: CheckpointRef) -> None:
    if checkpoint.kind != "training":
        problem = "a sampler checkpoint has no training state: load one that was saved for training"
        raise InvalidField(field="path", problem=problem)


def _check_metadata(metadata: Mapping[str, object]) -> None:
    size = sum(len(name) + len(str(value)) for name, value in metadata.items())
    if size > MAX_METADATA_BYTES:
        problem = f"{size} characters, the limit is {MAX_METADATA_BYTES}"
        raise InvalidField(field="user_metadata", problem=problem)
    for name, value in metadata.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidField(field=f"user_metadata.{name}", problem="is not finite")


def _check_step(step: Step) -> None:
    for name, value in (("learning_rate", step.learning_rate), ("weight_decay", step.weight_decay)):
        _check_number(name, value, low=0.0, high=1e6)
    for name, value in (("beta1", step.beta1), ("beta2", step.beta2)):
        _check_number(name, value, low=0.0, high=1.0)
        if value == 1.0:
            raise InvalidField(field=f"adam_params.{name}", problem="must be below 1")
    _check_number("eps", step.eps, low=0.0, high=1e6)
    _check_number("grad_clip_norm", step.clip_norm, low=0.0, high=math.inf)


def _check_number(name: str, value: float, *, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidField(field=f"adam_params.{name}", problem=f"{value} is outside {low}..{high}")


def _check_pass(operation: Pass, facts: BaseFacts) -> None:
    if not operation.data:
        raise InvalidField(field="data", problem="is empty")
    loss = PASS_LOSSES[operation.loss]
    _check_names(operation.config, loss.needed_config, loss.optional_config, field="loss_fn_config")
    for name, value in operation.config.items():
        if not math.isfinite(value):
            raise InvalidField(field=f"loss_fn_config.{name}", problem=f"{value} is not finite")
    for index, datum in enumerate(operation.data):
        _check_datum(datum, f"data[{index}]", loss, facts)
    _check_ids([datum.tokens for datum in operation.data], np.dtype("<i4"), facts, "model_input")
    targets = [datum.inputs["target_tokens"].data for datum in operation.data]
    _check_ids(targets, np.dtype("<i8"), facts, "loss_fn_inputs.target_tokens")
    for name in {name for datum in operation.data for name in datum.inputs} - {"target_tokens"}:
        _check_finite(operation.data, name)


def _check_names(found: Iterable[str], needed: Sequence[str], optional: Sequence[str], *, field: str) -> None:
    names = set(found)
    for name in needed:
        if name not in names:
            raise InvalidField(field=f"{field}.{name}", problem="is missing")
    for name in sorted(names.difference(needed, optional)):
        known = ", ".join((*needed, *optional)) or "none"
        raise InvalidField(field=f"{field}.{name}", problem=f"is unknown to this loss, which has {known}")


def _check_datum(datum: Datum, where: str, loss: TokenLoss, facts: BaseFacts) -> None:
    length, odd = divmod(len(datum.tokens), 4)
    if odd or not 1 <= length <= facts.max_context:
        problem = f"{length} tokens, a datum has 1..{facts.max_context}"
        raise InvalidField(field=f"{where}.model_input", problem=problem)
    where = f"{where}.loss_fn_inputs"
    _check_names(datum.inputs, ("target_tokens", *loss.needed), loss.optional, field=where)
    targets = datum.inputs["target_tokens"]
    shape = targets.shape
    if targets.dtype != "int64":
        raise InvalidField(field=f"{where}.target_tokens", problem="must be int64")
    if shape[:1] != (length,) or len(shape) > (2 if loss.is_wide else 1) or 0 in shape:
        problem = f"shape {list(shape)} where the model's input has {length} tokens"
        raise InvalidField(field=f"{where}.target_tokens", problem=problem)
    for name, array in datum.inputs.items():
        if array.shape != shape:
            problem = f"shape {list(array.shape)} where the targets have {list(shape)}"
            raise InvalidField(field=f"{where}.{name}", problem=problem)
        _check_bytes(array, f"{where}.{name}")


def _check_finite(data: Sequence[Datum], name: str) -> None:
    arrays = [(index, datum.inputs[name]) for index, datum in enumerate(data) if name in datum.inputs]
    floats = [(index, array) for index, array in arrays if array.dtype == "float32"]
    if np.isfinite(np.frombuffer(b"".join(array.data for _, array in floats), "<f4")).all():
        return
    for index, array in floats:
        if not np.isfinite(floats_of(array)).all():
            field = f"data[{index}].loss_fn_inputs.{name}"
            raise InvalidField(field=field, problem="has a value that is not finite")


def _check_distill(operation: Distill, facts: BaseFacts) -> None:
    """Raise InvalidField for the first thing that is wrong."""
    if not operation.data:
        raise InvalidField(field="data", problem="is empty")
    if not (math.isfinite(operation.temperature) and 0 < operation.temperature <= MAX_TEMPERATURE):
        problem = f"{operation.temperature} is outside 0..{MAX_TEMPERATURE}, 0 excluded"
        raise InvalidField(field="temperature", problem=problem)
    for index, lesson in enumerate(operation.data):
        _check_lesson(lesson, f"data[{index}]", facts)
    for name, prompts in (
        ("student_input", [lesson.student_tokens for lesson in operation.data]),
        ("reference_input", [lesson.teacher_tokens for lesson in operation.data]),
    ):
        _check_ids(prompts, np.dtype("<i4"), facts, name)
    targets = [lesson.target_tokens.data for lesson in operation.data]
    _check_ids(targets, np.dtype("<i8"), facts, "target_tokens")


def _check_lesson(lesson: Lesson, where: str, facts: BaseFacts) -> None:
    targets = lesson.target_tokens
    if targets.dtype != "int64" or len(targets.shape) != 1 or 0 in targets.shape:
        problem = f"must be int64 in one dimension, found {targets.dtype} of shape {list(targets.shape)}"
        raise InvalidField(field=f"{where}.target_tokens", problem=problem)
    if lesson.weights.shape != targets.shape:
        problem = f"shape {list(lesson.weights.shape)} where the targets have {list(targets.shape)}"
        raise InvalidField(field=f"{where}.weights", problem=problem)
    for name, array in (("target_tokens", targets), ("weights", lesson.weights)):
        _check_bytes(array, f"{where}.{name}")
    if not np.isfinite(floats_of(lesson.weights)).all():
        raise InvalidField(field=f"{where}.weights", problem="has a value that is not finite")
    room = facts.max_context - targets.shape[0] + 1
    for name, prompt in (
        ("student_input", lesson.student_tokens),
        ("reference_input", lesson.teacher_tokens),
    ):
        length, odd = divmod(len(prompt), 4)
        if odd or not 1 <= length <= room:
            problem = f"{length} tokens before {targets.shape[0]} targets: there is room for 1..{room}"
            raise InvalidField(field=f"{where}.{name}", problem=problem)


def _check_bytes(array: Array, field: str) -> None:
    """Check that an array has the bytes of its shape. Raises InvalidField."""
    if len(array.data) != math.prod(array.shape) * _ITEM_BYTES[array.dtype]:
        raise InvalidField(field=field, problem=f"{len(array.data)} bytes do not fit its shape")


def _check_ids(parts: Sequence[bytes], kind: np.dtype, facts: BaseFacts, what: str) -> None:
    """Check that token ids, a part for each datum, are of the base's vocabulary. Raises InvalidField."""
    ids = np.frombuffer(b"".join(parts), kind)
    if ids.min() >= 0 and ids.max() < facts.vocab_size:
        return
    for index, part in enumerate(parts):
        own = np.frombuffer(part, kind)
        wrong = own[(own < 0) | (own >= facts.vocab_size)]
        if len(wrong):
            problem = f"token {wrong[0]} is outside the vocabulary 0..{facts.vocab_size - 1}"
            raise InvalidField(field=f"data[{index}].{what}", problem=problem)
