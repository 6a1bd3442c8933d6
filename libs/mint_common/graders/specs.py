"""Graders as users write them, checked before any answer is graded."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from mint_common.errors import InvalidField
from mint_common.graders.formula import MAX_REWARD, Formula
from mint_common.graders.similarity import METRICS
from mint_common.job_errors import GraderNotSupported, MetricNotSupported

MAX_GRADERS = 10
MAX_SOURCE_BYTES = 256_000
MAX_JUDGE_TOKENS = 4096
VARIABLE = re.compile(r"\{\{([^{}]*)\}\}")
"""A variable in a template, with the white space around it. The time is linear in the template's length."""
PATH = re.compile(r"(item|sample)((?:\.[A-Za-z_][A-Za-z0-9_]*|\.[0-9]{1,9}|\[[0-9]{1,9}\])+)")

Name = Annotated[str, Meta(min_length=1, max_length=64)]
Text = Annotated[str, Meta(max_length=20_000)]
Operation = Literal["eq", "ne", "like", "ilike"]
JudgeRole = Literal["system", "developer", "user", "assistant"]


class StringCheck(Struct, frozen=True, forbid_unknown_fields=True, tag="string_check"):
    """1 or 0: ``like`` is contains, ``ilike`` that without case."""

    name: Name
    input: Text
    reference: Text
    operation: Operation


class TextSimilarity(Struct, frozen=True, forbid_unknown_fields=True, tag="text_similarity"):
    """Similarity of two texts."""

    name: Name
    input: Text
    reference: Text
    evaluation_metric: str


class PythonGrader(Struct, frozen=True, forbid_unknown_fields=True, tag="python"):
    """Source that defines ``grade(sample, item) -> float``; `image_tag` chooses nothing here."""

    name: Name
    source: str
    image_tag: None = None


class InputText(Struct, frozen=True, forbid_unknown_fields=True, tag="input_text"):
    """A part of a message."""

    text: Text


class JudgeMessage(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A message to the model that scores; its texts are templates."""

    role: JudgeRole
    content: Text | InputText | list[InputText]
    type: Literal["message"] = "message"

    @property
    def text(self) -> str:
        """Return the template of the whole message."""
        if isinstance(self.content, str):
            return self.content
        parts = self.content if isinstance(self.content, list) else [self.content]
        return "".join(part.text for part in parts)


class JudgeSampling(Struct, frozen=True, forbid_unknown_fields=True):
    """Sampling parameters of the scoring model: greedy by default."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=0, lt=1 << 31)] | None = None
    max_completions_tokens: Annotated[int, Meta(ge=1, le=MAX_JUDGE_TOKENS)] | None = None
    reasoning_effort: None = None


class ScoreModel(Struct, frozen=True, forbid_unknown_fields=True, tag="score_model"):
    """The number that a model says within ``range``; ``model`` is a base, or a revision of a policy."""

    name: Name
    model: Annotated[str, Meta(min_length=1, max_length=200)]
    input: Annotated[list[JudgeMessage], Meta(min_length=1, max_length=20)]
    range: tuple[float, float] = (0.0, 1.0)
    sampling_params: JudgeSampling | None = None


PlainGrader = StringCheck | TextSimilarity
"""Graders that compute on two texts alone."""
SingleGrader = StringCheck | TextSimilarity | PythonGrader | ScoreModel


class MultiGrader(Struct, frozen=True, forbid_unknown_fields=True, tag="multi"):
    """A formula over the rewards of graders, by the names that ``graders`` gives them."""

    name: Name
    graders: Annotated[dict[str, SingleGrader], Meta(min_length=1, max_length=MAX_GRADERS)]
    calculate_output: str


_NO_CHOICE = "Invalid enum value "
_CHOICES = {"operation": get_args(Operation), "role": get_args(JudgeRole)}
"""Values of fields that have a few."""
GraderSpec = StringCheck | TextSimilarity | PythonGrader | ScoreModel | MultiGrader


def read_grader(value: object) -> GraderSpec:
    """Return a grader of decoded JSON. Raises InvalidField, MetricNotSupported, GraderNotSupported.

    It does not check that its source runs or that its model is served.
    """
    _check_type(value)
    try:
        found: GraderSpec = msgspec.convert(value, GraderSpec)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        choices = _CHOICES.get(path.strip("`").rpartition(".")[2])
        if choices and problem.startswith(_NO_CHOICE):
            problem = f"{problem.removeprefix(_NO_CHOICE)} is none of {', '.join(choices)}"
        raise InvalidField(field=f"grader{path.strip('`')}"[:200], problem=problem[:500]) from error
    if _has_zero(value):
        raise InvalidField(field="grader", problem="a text in it has the character 0, which is not stored")
    if isinstance(found, MultiGrader):
        Formula(found.calculate_output, frozenset(found.graders))
    for field, grader in parts_of(found):
        _check_part(grader, field)
    return found


def parts_of(spec: GraderSpec) -> Iterator[tuple[str, SingleGrader]]:
    """Yield the graders that compute rewards themselves, each with its field."""
    if isinstance(spec, MultiGrader):
        for name, grader in spec.graders.items():
            yield f"grader.graders.{name[:64]}", grader
    else:
        yield "grader", spec


def _has_zero(value: object) -> bool:
    """Return whether a text in some JSON has the character 0, which Postgres does not take."""
    if isinstance(value, str):
        return "\x00" in value
    inner = [*value, *value.values()] if isinstance(value, dict) else value
    return isinstance(inner, list) and any(map(_has_zero, inner))


def _check_type(value: object) -> None:
    inner: Mapping[str, Any] = value if isinstance(value, dict) else {}
    several = inner.get("graders")
    for each in (inner, *(several.values() if isinstance(several, dict) else ())):
        if isinstance(each, dict) and each.get("type") == "label_model":
            raise GraderNotSupported(type="label_model", problem="score_model asks a model for a number.")


def _check_part(grader: SingleGrader, field: str) -> None:
    match grader:
        case PythonGrader(source=source):
            if len(source.encode(errors="replace")) > MAX_SOURCE_BYTES:
                raise InvalidField(field=f"{field}.source", problem=f"has more than {MAX_SOURCE_BYTES} bytes")
        case ScoreModel(range=(low, high)):
            if not -MAX_REWARD <= low < high <= MAX_REWARD:
                problem = f"is the least and the largest score, within +-{MAX_REWARD:,.0f}"
                raise InvalidField(field=f"{field}.range", problem=problem)
            for at, message in enumerate(grader.input):
                _check_template(message.text, f"{field}.input[{at}].content")
        case StringCheck() | TextSimilarity():
            if isinstance(grader, TextSimilarity) and grader.evaluation_metric not in METRICS:
                raise MetricNotSupported(metric=grader.evaluation_metric[:40], known=", ".join(METRICS))
            _check_template(grader.input, f"{field}.input")
            _check_template(grader.reference, f"{field}.reference")


def _check_template(template: str, field: str) -> None:
    for found in VARIABLE.finditer(template):
        variable = found[1].strip()
        if not PATH.fullmatch(variable):
            problem = f"{variable[:60]!r} is no field of item or sample, such as item.answer"
            raise InvalidField(field=field, problem=problem)
