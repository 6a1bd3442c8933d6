"""A sample graded: a finite reward, or what went wrong, which is never a reward."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from mint_common.graders.formula import Formula, FormulaFault
from mint_common.graders.similarity import METRICS
from mint_common.graders.specs import PATH, VARIABLE, GraderSpec, MultiGrader, PlainGrader, StringCheck

MAX_TEXT = 20_000
"""Characters of a text whose likeness is measured: the time is the product of both lengths."""

Fault = Literal["invalid_variable_error", "sample_parse_error", "formula_parse_error", "other_error"]
_STEP = re.compile(r"[A-Za-z0-9_]+")


class GraderFault(Exception):
    """A grader has no reward for a sample."""

    def __init__(self, kind: Fault, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedSample:
    """What is graded: a model's text, and the row that it answers."""

    output_text: str
    item: Mapping[str, Any] = field(default_factory=dict)  # JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """A reward; ``sub_rewards`` are those of a multi grader's parts."""

    reward: float
    sub_rewards: Mapping[str, float] = field(default_factory=dict)


def grade(spec: GraderSpec, sample: GradedSample) -> Grade:
    """Return the reward of a sample. Raises GraderFault."""
    if not isinstance(spec, MultiGrader):
        return Grade(reward=_grade_plain(spec, sample))
    rewards = {name: _grade_plain(each, sample) for name, each in spec.graders.items()}
    try:
        reward = Formula(spec.calculate_output, frozenset(spec.graders)).value(rewards)
    except FormulaFault as error:
        raise GraderFault("formula_parse_error", str(error)) from error
    return Grade(reward=reward, sub_rewards=rewards)


def _grade_plain(spec: PlainGrader, sample: GradedSample) -> float:
    text, reference = fill(spec.input, sample), fill(spec.reference, sample)
    if isinstance(spec, StringCheck):
        return float(_matches(spec.operation, text, reference))
    longest = max(len(text), len(reference))
    if longest > MAX_TEXT:
        raise GraderFault("other_error", f"a text has {longest} characters, {MAX_TEXT} is the most")
    return METRICS[spec.evaluation_metric](text, reference)


def _matches(operation: str, text: str, reference: str) -> bool:
    match operation:
        case "eq":
            return text == reference
        case "ne":
            return text != reference
        case "like":
            return reference in text
        case _:
            return reference.casefold() in text.casefold()


def fill(template: str, sample: GradedSample) -> str:
    """Return a template's text with its variables replaced, once. Raises GraderFault."""
    return VARIABLE.sub(lambda found: _written(_look_up(found[1], sample)), template)


def _look_up(variable: str, sample: GradedSample) -> Any:  # JSON
    path = PATH.fullmatch(variable)
    assert path is not None  # checked with the grader
    steps = _STEP.findall(path[2])
    value: Any = sample.item if path[1] == "item" else _namespace(sample, steps[0])
    for step in steps:
        if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, Mapping) and step in value:
            value = value[step]
        else:
            raise GraderFault("invalid_variable_error", f"there is no {variable}")
    return value


def _namespace(sample: GradedSample, first: str) -> dict[str, Any]:  # JSON
    if first != "output_json":
        return {"output_text": sample.output_text}
    try:
        return {"output_json": msgspec.json.decode(sample.output_text)}
    except (msgspec.DecodeError, RecursionError) as error:
        raise GraderFault("sample_parse_error", "the sample is no JSON") from error


def _written(value: Any) -> str:  # JSON
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
