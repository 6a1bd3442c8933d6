"""Graders as users write them, checked before any answer is graded."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from mint_common.errors import InvalidField, MintError
from mint_common.graders.formula import Formula
from mint_common.graders.similarity import METRICS

MAX_GRADERS = 10
VARIABLE = re.compile(r"\{\{([^{}]*)\}\}")
"""A variable in a template, with the white space around it. The time is linear in the template's length."""
PATH = re.compile(r"(item|sample)((?:\.[A-Za-z_][A-Za-z0-9_]*|\.[0-9]{1,9}|\[[0-9]{1,9}\])+)")

Name = Annotated[str, Meta(min_length=1, max_length=64)]
Text = Annotated[str, Meta(max_length=20_000)]
Operation = Literal["eq", "ne", "like", "ilike"]


class MetricNotSupported(MintError):
    """Metric {metric!r} is not computed here: it is one of {known}."""

    code = "metric_not_supported"
    http_status = 422


class GraderNotSupported(MintError):
    """Graders of type {type!r} do not run here: they are string_check, text_similarity and multi."""

    code = "grader_not_supported"
    http_status = 422


class StringCheck(Struct, frozen=True, forbid_unknown_fields=True, tag="string_check"):
    """1 or 0: ``like`` is contains, ``ilike`` that without case."""

    name: Name
    input: Text
    reference: Text
    operation: Operation


class TextSimilarity(Struct, frozen=True, forbid_unknown_fields=True, tag="text_similarity"):
    """How alike two texts are."""

    name: Name
    input: Text
    reference: Text
    evaluation_metric: str


PlainGrader = StringCheck | TextSimilarity


class MultiGrader(Struct, frozen=True, forbid_unknown_fields=True, tag="multi"):
    """A formula over the rewards of graders, by the names that ``graders`` gives them."""

    name: Name
    graders: Annotated[dict[str, PlainGrader], Meta(min_length=1, max_length=MAX_GRADERS)]
    calculate_output: str


GraderSpec = StringCheck | TextSimilarity | MultiGrader


def read_grader(value: object) -> GraderSpec:
    """Return a grader of decoded JSON. Raises InvalidField, MetricNotSupported, GraderNotSupported."""
    _check_type(value)
    try:
        found: GraderSpec = msgspec.convert(value, GraderSpec)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        raise InvalidField(field=f"grader{path.strip('`')}"[:200], problem=problem[:500]) from error
    if isinstance(found, MultiGrader):
        Formula(found.calculate_output, frozenset(found.graders))
        for name, grader in found.graders.items():
            _check_plain(grader, f"grader.graders.{name[:64]}")
    else:
        _check_plain(found, "grader")
    return found


def _check_type(value: object) -> None:
    inner: Mapping[str, Any] = value if isinstance(value, dict) else {}
    several = inner.get("graders")
    for each in (inner, *(several.values() if isinstance(several, dict) else ())):
        kind = each.get("type") if isinstance(each, dict) else None
        if isinstance(kind, str) and kind in {"python", "score_model", "label_model"}:
            raise GraderNotSupported(type=kind)


def _check_plain(grader: PlainGrader, field: str) -> None:
    if isinstance(grader, TextSimilarity) and grader.evaluation_metric not in METRICS:
        raise MetricNotSupported(metric=grader.evaluation_metric[:40], known=", ".join(METRICS))
    for name in ("input", "reference"):
        for found in VARIABLE.finditer(getattr(grader, name)):
            variable = found[1].strip()
            if not PATH.fullmatch(variable):
                problem = f"{variable[:60]!r} is no field of item or sample, such as item.answer"
                raise InvalidField(field=f"{field}.{name}", problem=problem)
