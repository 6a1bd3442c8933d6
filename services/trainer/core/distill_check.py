"""Validates a distillation before it is stored; errors name the path of the field."""

import math

import numpy as np

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.errors import InvalidField
from mint_common.training import Distill, Lesson
from services.trainer.core.array_check import check_bytes, check_ids, floats_of

MAX_TEMPERATURE = 1e3


def check_distill(operation: Distill, facts: BaseFacts) -> None:
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
        check_ids(prompts, np.dtype("<i4"), facts, name)
    targets = [lesson.target_tokens.data for lesson in operation.data]
    check_ids(targets, np.dtype("<i8"), facts, "target_tokens")


def _check_lesson(lesson: Lesson, where: str, facts: BaseFacts) -> None:
    targets = lesson.target_tokens
    if targets.dtype != "int64" or len(targets.shape) != 1 or 0 in targets.shape:
        problem = f"must be int64 in one dimension, found {targets.dtype} of shape {list(targets.shape)}"
        raise InvalidField(field=f"{where}.target_tokens", problem=problem)
    if lesson.weights.shape != targets.shape:
        problem = f"shape {list(lesson.weights.shape)} where the targets have {list(targets.shape)}"
        raise InvalidField(field=f"{where}.weights", problem=problem)
    for name, array in (("target_tokens", targets), ("weights", lesson.weights)):
        check_bytes(array, f"{where}.{name}")
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
