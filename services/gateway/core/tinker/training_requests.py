"""Bodies of training requests. Unknown fields of newer clients are ignored.

The one optimizer is AdamW with decoupled weight decay and a clip of the global norm.
"""

from dataclasses import dataclass
from typing import Literal

import msgspec

from mint_common.errors import InvalidField, MintError
from mint_common.json_types import JsonObject
from mint_common.training import CheckpointRef, Distill, Lesson, Step
from services.gateway.core.tinker.ids import check_checkpoint_name, check_seq, unnumbered_seq
from services.gateway.core.tinker.lora import LoraConfig
from services.gateway.core.tinker.passes import JsonModelInput, read_json_tokens
from services.gateway.core.tinker.tensors import JsonTensor, read_json_tensor


class RunConflict(MintError):
    """Training run {model_id!r} exists already, with another base or another LoRA."""

    code = "run_conflict"
    http_status = 422


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamParams:
    """The numbers of a step; the defaults are the SDK's."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0


class CreateModelBody(msgspec.Struct, frozen=True):
    """``create_model``."""

    session_id: str
    model_seq_id: int
    base_model: str
    user_metadata: dict[str, object] | None = None
    lora_config: LoraConfig | None = None
    optimizer_config: JsonObject | None = None


class ModelBody(msgspec.Struct, frozen=True):
    """``get_info`` and ``unload_model``."""

    model_id: str


class OptimStepBody(msgspec.Struct, frozen=True):
    """``optim_step``."""

    model_id: str
    seq_id: int | None = None
    adam_params: AdamParams | None = None
    optimizer_params: JsonObject | None = None


class SaveBody(msgspec.Struct, frozen=True):
    """``save_weights``; ``path`` is a bare name."""

    model_id: str
    path: str | None = None
    seq_id: int | None = None
    ttl_seconds: int | None = None
    overwrite: bool = False
    user_metadata: dict[str, object] | None = None


class SaveForSamplerBody(msgspec.Struct, frozen=True):
    """``save_weights_for_sampler``: a named checkpoint, or with a number a sampling session."""

    model_id: str
    path: str | None = None
    sampling_session_seq_id: int | None = None
    kind: Literal["snapshot", "inflight"] = "snapshot"
    seq_id: int | None = None
    ttl_seconds: int | None = None
    user_metadata: dict[str, object] | None = None


class LoadBody(msgspec.Struct, frozen=True):
    """``load_weights``: into a training run, or with a session as a new one."""

    path: str
    optimizer: bool = False
    model_id: str | None = None
    seq_id: int | None = None
    session_id: str | None = None
    model_seq_id: int | None = None
    base_model: str | None = None
    user_metadata: dict[str, object] | None = None
    optimizer_config: JsonObject | None = None


class WeightsInfoBody(msgspec.Struct, frozen=True):
    """``weights_info``."""

    tinker_path: str


class CopyBody(msgspec.Struct, frozen=True):
    """``copy_weights``: into a session's new training run, or a project's."""

    source_path: str
    session_id: str | None = None
    model_seq_id: int | None = None
    destination_project_id: str | None = None
    ttl_seconds: int | None = None


class TtlBody(msgspec.Struct, frozen=True):
    """``ttl``: None is forever."""

    ttl_seconds: int | None = None


class JsonLesson(msgspec.Struct, frozen=True):
    """A completion for the policy to learn from the teacher.

    The inputs are prompts: both models read their own, then the same target tokens.
    """

    student_input: JsonModelInput
    reference_input: JsonModelInput
    target_tokens: JsonTensor
    weights: JsonTensor


class ReverseKlBody(msgspec.Struct, frozen=True):
    """``mint/forward_backward_reverse_kl`` of Mind Lab's toolkit.

    It leaves ``seq_id`` out unless its user counts operations.
    """

    model_id: str
    reference_model_path: str
    data: list[JsonLesson]
    temperature: float = 1.0
    seq_id: int | None = None


def checkpoint_name(path: str | None, seq: int) -> str:
    """Return the name of a new checkpoint: the user's, or its number. Raises InvalidField."""
    return f"seq-{seq}" if path is None else check_checkpoint_name("path", path)


def plan_step(adam: AdamParams | None, other: JsonObject | None) -> Step:
    """Return the step. Raises InvalidField for another optimizer, or numbers that AdamW cannot take."""
    if other is not None:
        check_optimizer(other)
        raise InvalidField(field="optimizer_params", problem="is for other optimizers; send adam_params")
    wish = adam or AdamParams()
    return Step(
        learning_rate=wish.learning_rate,
        beta1=wish.beta1,
        beta2=wish.beta2,
        eps=wish.eps,
        weight_decay=wish.weight_decay,
        clip_norm=wish.grad_clip_norm,
    )


def check_optimizer(config: JsonObject | None) -> None:
    """Refuse an optimizer that is not AdamW. Raises InvalidField."""
    kind = "adamw" if config is None else config.get("type", "adamw")
    if kind != "adamw":
        raise InvalidField(field="optimizer_config.type", problem=f"must be adamw, got {str(kind)[:50]!r}")


def plan_distill(wish: ReverseKlBody, teacher: CheckpointRef) -> Distill:
    """Return the requested operation. Raises InvalidField for unreadable data."""
    data = tuple(_lesson(lesson, f"data[{index}]") for index, lesson in enumerate(wish.data))
    return Distill(data=data, teacher=teacher, temperature=wish.temperature)


def distill_seq(wish: ReverseKlBody, *, key: str) -> int:
    """Return the client's number, or one derived from the request's key. Raises InvalidField."""
    return unnumbered_seq(key) if wish.seq_id is None else check_seq(wish.seq_id)


def _lesson(lesson: JsonLesson, where: str) -> Lesson:
    return Lesson(
        student_tokens=read_json_tokens(lesson.student_input, f"{where}.student_input"),
        teacher_tokens=read_json_tokens(lesson.reference_input, f"{where}.reference_input"),
        # The dtype is ignored: the toolkit's tensors always say float32 by default.
        target_tokens=read_json_tensor(
            msgspec.structs.replace(lesson.target_tokens, dtype="int64"), f"{where}.target_tokens"
        ),
        weights=read_json_tensor(lesson.weights, f"{where}.weights"),
    )
