"""A sample graded: a finite reward, or what went wrong, which is never a reward."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import msgspec

from mint_common.graders.formula import Formula, FormulaFault
from mint_common.graders.similarity import METRICS
from mint_common.graders.specs import PATH, VARIABLE, PlainGrader, StringCheck

MAX_TEXT = 20_000
"""Characters of a text whose likeness is measured: the time is the product of both lengths."""

MAX_FILLED = 1 << 20
"""Characters that the variables of a grader's texts may become, together."""

Fault = Literal[
    "invalid_variable_error",
    "sample_parse_error",
    "formula_parse_error",
    "model_grader_parse_error",
    "model_grader_server_error",
    "other_error",
    "python_grader_runtime_error",
    "python_grader_server_error",
]
_STEP = re.compile(r"[A-Za-z0-9_]+")
_NUMBER = re.compile(
    r"(?<![\w./+-])(?<!\d,)[+-]?(?:\d{1,15}(?:\.\d{1,15})?|\.\d{1,15})(?:[eE][+-]?\d{1,2})?(?!\w|[.,]\d)"
)
"""Not within a word or another number, and not after a slash: of "8/10" it is 8."""


class GraderFault(Exception):
    """A grader has no reward for a sample; the message is without the character 0, which is not stored."""

    def __init__(self, kind: Fault, message: str) -> None:
        self.kind = kind
        self.message = message.replace("\x00", "\ufffd")
        super().__init__(self.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedSample:
    """A model's text to grade, and the row that it answers."""

    output_text: str
    item: Mapping[str, Any] = field(default_factory=dict)  # JSON

    def output_json(self) -> Any:  # JSON
        """Return the text parsed as JSON. Raises GraderFault."""
        try:
            return msgspec.json.decode(self.output_text)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise GraderFault("sample_parse_error", "the sample is not JSON") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """A reward; ``sub_rewards`` are those of a multi grader's parts."""

    reward: float
    sub_rewards: Mapping[str, float] = field(default_factory=dict)


class Variables:
    """Values of a grader's template variables for one sample; each variable is read once."""

    def __init__(self, sample: GradedSample) -> None:
        self._sample = sample
        self._written: dict[str, str] = {}

    def fill(self, *templates: str) -> list[str]:
        """Return the templates with their variables replaced, once. Raises GraderFault.

        Texts that are too long together are refused before they are put together.
        """
        total = 0

        def text_of(found: re.Match[str]) -> str:
            nonlocal total
            text = self._text(found[1].strip())
            total += len(text)
            if total > MAX_FILLED:
                problem = f"the variables of a grader become more than {MAX_FILLED} characters"
                raise GraderFault("other_error", problem)
            return text

        return [VARIABLE.sub(text_of, template) for template in templates]

    def _text(self, variable: str) -> str:
        if variable not in self._written:
            self._written[variable] = _written(self._look_up(variable), variable)
        return self._written[variable]

    def _look_up(self, variable: str) -> Any:  # JSON
        path = PATH.fullmatch(variable)
        assert path is not None  # checked with the grader
        steps = _STEP.findall(path[2])
        value: Any = self._sample.item if path[1] == "item" else self._namespace(steps[0])
        for step in steps:
            if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
                value = value[int(step)]
            elif isinstance(value, Mapping) and step in value:
                value = value[step]
            else:
                raise GraderFault("invalid_variable_error", f"there is no {variable[:200]}")
        return value

    def _namespace(self, first: str) -> dict[str, Any]:  # JSON
        if first == "output_json":
            return {"output_json": self._output_json}
        return {"output_text": self._sample.output_text}

    @cached_property
    def _output_json(self) -> Any:  # JSON
        return self._sample.output_json()


def grade_plain(spec: PlainGrader, sample: GradedSample) -> float:
    """Return the reward that is computed of two texts alone. Raises GraderFault."""
    text, reference = Variables(sample).fill(spec.input, spec.reference)
    if isinstance(spec, StringCheck):
        return float(_matches(spec.operation, text, reference))
    longest = max(len(text), len(reference))
    if longest > MAX_TEXT:
        raise GraderFault("other_error", f"a text has {longest} characters, {MAX_TEXT} is the most")
    return METRICS[spec.evaluation_metric](text, reference)


def combine(formula: Formula, rewards: Mapping[str, float]) -> Grade:
    """Return the formula's value of the parts' rewards. Raises GraderFault."""
    try:
        reward = formula.value(rewards)
    except FormulaFault as error:
        raise GraderFault("formula_parse_error", str(error)) from error
    return Grade(reward=reward, sub_rewards=rewards)


def score_in(answer: str, *, low: float, high: float, is_cut: bool) -> float:
    """Return the score that a model gave: the last number of its answer within the range.

    Raises GraderFault when there is none. ``is_cut``: the answer ended at its greatest length, so a number at
    its very end may lack digits and does not count.
    """
    for found in reversed(list(_NUMBER.finditer(answer))):
        if is_cut and found.end() >= len(answer.rstrip(".")):
            continue
        if low <= (score := float(found[0])) <= high:
            return score
    problem = f"the answer has no number from {low:g} to {high:g}: {answer[-200:]!r}"
    raise GraderFault("model_grader_parse_error", problem)


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


def _written(value: Any, variable: str) -> str:  # JSON
    if isinstance(value, str):
        return value
    try:
        return msgspec.json.encode(value).decode()
    except (ValueError, RecursionError) as error:
        # Python's own reader of JSON takes halves of surrogate pairs, and more depth.
        problem = f"{variable[:200]} cannot be written as JSON"
        raise GraderFault("invalid_variable_error", problem) from error
