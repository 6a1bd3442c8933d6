"""``mint/forward_backward_reverse_kl`` of Mind Lab's toolkit: from what clients send to a `Distill`.

A lesson's inputs are prompts: both models read their own, then the same target tokens.
"""

import msgspec

from mint_common.training import CheckpointRef, Distill, Lesson
from services.gateway.core.tinker.ids import unnumbered_seq
from services.gateway.core.tinker.passes import JsonModelInput, check_seq, read_json_tokens
from services.gateway.core.tinker.tensors import JsonTensor, read_json_tensor


class JsonLesson(msgspec.Struct, frozen=True):
    """A completion that the policy learns from the teacher."""

    student_input: JsonModelInput
    reference_input: JsonModelInput
    target_tokens: JsonTensor
    weights: JsonTensor


class ReverseKlBody(msgspec.Struct, frozen=True):
    """The body. The toolkit leaves ``seq_id`` out unless its user counts operations."""

    model_id: str
    reference_model_path: str
    data: list[JsonLesson]
    temperature: float = 1.0
    seq_id: int | None = None


def plan_distill(wish: ReverseKlBody, teacher: CheckpointRef) -> Distill:
    """Return the operation that is asked for. Raises InvalidField for what cannot be read."""
    data = tuple(_lesson(lesson, f"data[{index}]") for index, lesson in enumerate(wish.data))
    return Distill(data=data, teacher=teacher, temperature=wish.temperature)


def distill_seq(wish: ReverseKlBody, *, key: str) -> int:
    """Return the client's number, or one derived from the request's key. Raises InvalidField."""
    return unnumbered_seq(key) if wish.seq_id is None else check_seq(wish.seq_id)


def _lesson(lesson: JsonLesson, where: str) -> Lesson:
    return Lesson(
        student_tokens=read_json_tokens(lesson.student_input, f"{where}.student_input"),
        teacher_tokens=read_json_tokens(lesson.reference_input, f"{where}.reference_input"),
        # Whatever dtype is announced: the toolkit's tensors say float32 unless told.
        target_tokens=read_json_tensor(
            msgspec.structs.replace(lesson.target_tokens, dtype="int64"), f"{where}.target_tokens"
        ),
        weights=read_json_tensor(lesson.weights, f"{where}.weights"),
    )
