"""Graders compute what their kinds promise, refuse what does not run, and never take a fault for a reward."""

import math
import tracemalloc
import warnings
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import InvalidField, MintError
from mint_common.graders import Grade, GradedSample, GraderFault, read_grader
from mint_common.graders.formula import MAX_NESTING, Formula, FormulaFault
from mint_common.graders.grade import MAX_FILLED, combine, grade_plain
from mint_common.graders.similarity import METRICS
from mint_common.graders.specs import MultiGrader

CHECK = {
    "type": "string_check",
    "name": "c",
    "input": "{{sample.output_text}}",
    "reference": "{{ item.answer }}",
}
ALIKE = {
    "type": "text_similarity",
    "name": "s",
    "input": "{{ sample.output_text }}",
    "reference": "{{item.answer}}",
}
PYTHON = {"type": "python", "name": "p", "source": "def grade(sample, item): return 1"}
SCORE = {
    "type": "score_model",
    "name": "j",
    "model": "tiny",
    "input": [{"role": "user", "content": [{"type": "input_text", "text": "{{ sample.output_text }}"}]}],
}
PART = "grader.graders[...]"
SAMPLING = "grader.sampling_params"
MOST, EFFORT = f"{SAMPLING}.max_completions_tokens", f"{SAMPLING}.reasoning_effort"


def test_a_wrong_operation_is_refused_with_the_right_ones() -> None:
    with pytest.raises(InvalidField, match="'equals' is none of eq, ne, like, ilike"):
        read_grader(check("equals"))


def check(operation: str = "eq", **changes: object) -> dict[str, Any]:
    return {**CHECK, "operation": operation, **changes}


def multi(formula: str) -> dict[str, Any]:
    graders = {"a": check(), "b": {**ALIKE, "evaluation_metric": "fuzzy_match"}}
    return {"type": "multi", "name": "m", "graders": graders, "calculate_output": formula}


def grade(grader: object, text: str, **item: object) -> Grade:
    spec, sample = read_grader(grader), GradedSample(output_text=text, item=item)
    if isinstance(spec, MultiGrader):
        formula = Formula(spec.calculate_output, spec.graders.keys())
        return combine(formula, {name: grade_plain(part, sample) for name, part in spec.graders.items()})
    return Grade(reward=grade_plain(spec, sample))


def reward(grader: object, text: str, **item: object) -> float:
    return grade(grader, text, **item).reward


@given(text=st.text(max_size=6), answer=st.text(max_size=3))
def test_string_checks_are_python_s_own(text, answer) -> None:
    assert reward(check("eq"), text, answer=answer) == (text == answer)
    assert reward(check("ne"), text, answer=answer) == (text != answer)
    assert reward(check("like"), text, answer=answer) == (answer in text)
    assert reward(check("ilike"), text, answer=answer) == (answer.casefold() in text.casefold())


@given(text=st.text("ab c", max_size=20), other=st.text("ab c", max_size=20))
def test_likeness_is_from_0_to_1_and_the_same_both_ways(text, other) -> None:
    for metric in METRICS.values():
        assert 0 <= metric(text, other) <= 1
        assert metric(text, other) == pytest.approx(metric(other, text))
    assert METRICS["fuzzy_match"](text, text) == 1


REFERENCES = [
    ("The cat sat on the mat.", "the cat was on the mat", 38 / 45, [5 / 6, 0.6, 0.25, 5 / 6]),
    ("4", "four", 0.0, [0.0, 0.0, 0.0, 0.0]),
    ("a b c d e", "e d c b a", 5 / 9, [1.0, 0.0, 0.0, 0.2]),
    ("kitten sitting", "sitting kitten", 9 / 14, [1.0, 0.0, 0.0, 0.5]),
    ("", "x", 0.0, [0.0, 0.0, 0.0, 0.0]),
    ("It's 3.14, roughly", "its 3 14 roughly", 14 / 17, [2 / 3, 4 / 7, 0.4, 2 / 3]),
]


@pytest.mark.parametrize(("text", "other", "fuzzy", "rouge"), REFERENCES)
def test_likeness_is_that_of_rapidfuzz_and_rouge_score(text, other, fuzzy, rouge) -> None:
    """Numbers of rapidfuzz 3.14.6 (ratio) and rouge-score 0.1.2 (rouge1, 2, 3, L, without stemming)."""
    metrics = ("fuzzy_match", "rouge_1", "rouge_2", "rouge_3", "rouge_l")
    assert [METRICS[name](text, other) for name in metrics] == pytest.approx([fuzzy, *rouge], abs=1e-9)


def test_variables_reach_into_rows_and_json() -> None:
    item = {"rows": [{"x": 1}, {"x": [True, "a"]}], "answer": "a"}
    for path, text in (
        ("item.rows[1].x[1]", "a"),
        ("item.rows.0.x", "1"),
        ("item.rows[0]", '{"x":1}'),
        ("sample.output_json.y", "2"),
        ("sample.output_text", '{"y": 2}'),
    ):
        assert reward(check(input=f"<{{{{ {path} }}}}>", reference=f"<{text}>"), '{"y": 2}', **item) == 1, (
            path
        )
    assert reward(check(), "{{ item.answer }}", answer="{{ sample.output_text }}") == 0, "filled in once"


@pytest.mark.parametrize(
    ("text", "path", "kind"),
    [
        ("a", "item.none", "invalid_variable_error"),
        ("a", "item.answer.x", "invalid_variable_error"),
        ("a", "sample.choices", "invalid_variable_error"),
        ("a", "sample.output_json.x", "sample_parse_error"),
        ("[" * 100_000, "sample.output_json.x", "sample_parse_error"),
    ],
)
def test_what_is_not_there_is_a_fault_and_no_reward(text, path, kind) -> None:
    with pytest.raises(GraderFault) as fault:
        reward(check(input=f"{{{{ {path} }}}}"), text, answer="a")
    assert fault.value.kind == kind


@pytest.mark.parametrize("value", [["\ud800"], {"a": "\ud800"}, "nested"])
def test_what_is_no_json_is_a_fault_and_no_reward(value) -> None:
    """The gateway's reader of JSON takes more than its writer writes."""
    if value == "nested":
        value = []
        for _ in range(100_000):
            value = [value]
    with pytest.raises(GraderFault) as fault:
        reward(check(input="{{ item.value }}"), "a", answer="a", value=value)
    assert fault.value.kind == "invalid_variable_error"
    with pytest.raises(GraderFault) as fault:
        reward(check(input="{{ sample.output_json }}"), "\ud800", answer="a")
    assert fault.value.kind == "sample_parse_error"


def test_an_answer_is_read_as_json_once_for_all_variables() -> None:
    template = "".join(f"{{{{ sample.output_json[{place}] }}}}" for place in range(600))
    assert reward(check(input=template, reference="1" * 600), f"[{'1,' * 100_000}1]") == 1


@pytest.mark.parametrize("value", ["a" * 900_000, ["a" * 900_000]])
def test_a_grader_s_variables_become_a_bounded_text(value) -> None:
    for field in ("input", "reference"):
        tracemalloc.start()
        with pytest.raises(GraderFault, match=f"more than {MAX_FILLED} characters"):
            reward(check(**{field: "{{item.a}}" * 2000}), "a", answer="a", a=value)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16 << 20
    assert reward(check(input="{{item.a}}", reference="{{ item.a }}"), "", a="a" * (MAX_FILLED // 2)) == 1


@pytest.mark.parametrize("template", ["{{" + " " * 19_998, "{{" * 10_000, "{{ " * 6666, "{{" + "}" * 19_998])
def test_a_template_of_the_greatest_length_is_read(template) -> None:
    """Each of these took seconds or hours where the time was not linear in the length."""
    spec = check(input=template, reference=template)
    if template.endswith("}"):
        with pytest.raises(InvalidField):
            read_grader(spec)
    else:
        assert reward(spec, "") == 1, "no variable, so no change"


def test_braces_around_a_variable_stay() -> None:
    assert reward(check(input='{"a":{"b":{{ item.a }}}}', reference='{"a":{"b":1}}'), "", a=1) == 1
    assert reward(check(input="{{{item.a}}}", reference="{1}"), "", a=1) == 1


def test_texts_that_would_take_long_are_a_fault() -> None:
    grader = {**ALIKE, "evaluation_metric": "fuzzy_match"}
    with pytest.raises(GraderFault):
        reward(grader, "a" * 20_001, answer="a")


def test_a_formula_combines_rewards() -> None:
    found = grade(multi("0.5 * a + min(b, 1) ^ 2 / 2 - abs(-0)"), "ab", answer="ab")
    assert (found.reward, found.sub_rewards) == (1.0, {"a": 1.0, "b": 1.0})


@given(a=st.floats(-9, 9), b=st.floats(-9, 9), c=st.integers(1, 9))
def test_formulas_are_python_s_arithmetic(a, b, c) -> None:
    formula = Formula(f"(a - b) * {c} / 2 + max(a, b, 0) - sqrt(abs(b)) + 2 ^ 3", {"a", "b"})
    expected = (a - b) * c / 2 + max(a, b, 0) - math.sqrt(abs(b)) + 2**3
    assert formula.value({"a": a, "b": b}) == pytest.approx(expected)


@given(text=st.text("ab()+-*/^.,1 _[]{}'\"=:lambdforimpt", max_size=30))
def test_whatever_is_written_is_a_finite_number_or_refused(text) -> None:
    with suppress(InvalidField, FormulaFault):
        assert math.isfinite(Formula(text, {"a", "b"}).value({"a": 1.0, "b": 0.0}))


@pytest.mark.parametrize("nested", ["-" * (MAX_NESTING - 2) + "a", "+".join("a" * (MAX_NESTING - 2))])
def test_a_formula_of_the_greatest_nesting_has_a_value(nested) -> None:
    assert math.isfinite(reward(multi(nested), "ab", answer="ab"))
    with pytest.raises(InvalidField, match=f"more than {MAX_NESTING} operations"):
        read_grader(multi(f"abs(-({nested}))"))


TOKENS = ["a", "b2", "1", "1.", ".5", "1e3", "1E-3", "1e", "0x1f", "0b1", "1_0", "1j", *"+-*/^(), \\'\"[]"]
TOKENS += ["or", "and", "if", "else", "in", "is", "not", "for", "lambda"]


@pytest.mark.parametrize("formula", ["1e3+a", "1E-3*a", "2.5*a", ".5*a", "1.*a", "a1b + 1.5", "\u00e4 / 2"])
def test_numbers_and_names_are_written_as_in_python(formula) -> None:
    assert math.isfinite(Formula(formula, {"a", "a1b", "\u00e4"}).value({"a": 1, "a1b": 1, "\u00e4": 1}))


@pytest.mark.parametrize(
    "formula",
    [
        *(
            "a.__class__",
            "().__class__",
            "__import__('os')",
            "(lambda: 1)()",
            "a if b else 1",
            "[a][0]",
            "a and b",
        ),
        *(
            "open",
            "c",
            "min(a)",
            "abs(a, b)",
            "a == b",
            "'a'",
            "True",
            "1e20",
            "1j",
            "a := 1",
            "f'{a}'",
            "min(*a)",
        ),
        *("1or 1", "1 if 1else 2", "0x1for", "1.5is 1", "0b1", "1_0", "(1)is(1)", "\\d", "\u0663"),
        *("", "a +", "a" * 1001, "(" * 500, "-" * 999 + "1.5.5", "-" * 995 + "a", "+".join("a" * 500)),
    ],
)
def test_nothing_but_arithmetic_is_a_formula(capfd, formula) -> None:
    with pytest.raises(InvalidField) as refused:
        read_grader(multi(formula))
    assert refused.value.field == "grader.calculate_output"
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("always")
@given(parts=st.lists(st.sampled_from(TOKENS), max_size=8))
def test_the_parser_warns_of_no_formula(parts) -> None:
    with warnings.catch_warnings(record=True) as warned, suppress(InvalidField):
        Formula("".join(parts), {"a", "b2"})
    assert not warned


INFINITE_LESS_ITSELF = "min(1, 10^300 * 10^300 - 10^300 * 10^300)"


@pytest.mark.parametrize(
    "formula",
    [
        "1 / 0 * a",
        "log(a - a)",
        "exp(a * 10 ^ 9)",
        "sqrt(-a)",
        "10 ^ 300 * 10 ^ 300",
        "a * 10 ^ 10",
        "min",
        INFINITE_LESS_ITSELF,
    ],
)
def test_no_number_is_a_fault_and_no_reward(formula) -> None:
    with pytest.raises(GraderFault) as fault:
        reward(multi(formula), "ab", answer="ab")
    assert fault.value.kind == "formula_parse_error"


@pytest.mark.parametrize(
    ("grader", "code", "field"),
    [
        ({**ALIKE, "evaluation_metric": "cosine"}, "metric_not_supported", None),
        ({**ALIKE, "evaluation_metric": "bleu"}, "metric_not_supported", None),
        ({"type": "label_model", "name": "l"}, "grader_not_supported", None),
        ({**multi("a"), "graders": {"a": {"type": "label_model"}}}, "grader_not_supported", None),
        ({**PYTHON, "source": "#" * 256_001}, "invalid_field", "grader.source"),
        ({**PYTHON, "source": "\u20ac" * 100_000}, "invalid_field", "grader.source"),
        ({**PYTHON, "image_tag": "2025-05-08"}, "invalid_field", "grader.image_tag"),
        ({**multi("a"), "graders": {"a": {"type": "python", "name": "p"}}}, "invalid_field", PART),
        ({**SCORE, "range": [1, 1]}, "invalid_field", "grader.range"),
        ({**SCORE, "range": [-1e10, 1]}, "invalid_field", "grader.range"),
        ({**SCORE, "range": [0, 1, 2]}, "invalid_field", "grader.range"),
        ({**SCORE, "input": []}, "invalid_field", "grader.input"),
        ({**SCORE, "input": [{"role": "tool", "content": ""}]}, "invalid_field", "grader.input[0].role"),
        (
            {**SCORE, "input": [{"role": "user", "content": "{{ x }}"}]},
            "invalid_field",
            "grader.input[0].content",
        ),
        ({**SCORE, "sampling_params": {"temperature": 3}}, "invalid_field", f"{SAMPLING}.temperature"),
        ({**SCORE, "sampling_params": {"max_completions_tokens": 10**6}}, "invalid_field", MOST),
        ({**SCORE, "sampling_params": {"reasoning_effort": "high"}}, "invalid_field", EFFORT),
        ({**SCORE, "sampling_params": {"best_of": 2}}, "invalid_field", SAMPLING),
        (check("equals"), "invalid_field", "grader.operation"),
        (check(input="{{ os.environ }}"), "invalid_field", "grader.input"),
        (check(input="{{ item }}"), "invalid_field", "grader.input"),
        (check(input="{{ item.a.__class__() }}"), "invalid_field", "grader.input"),
        (check(input="{{ sample[\u0663] }}"), "invalid_field", "grader.input"),
        (check(input="{{ item.a[" + "1" * 5000 + "] }}"), "invalid_field", "grader.input"),
        (check(reference="{{ item.a." + "1" * 10 + " }}"), "invalid_field", "grader.reference"),
        (check(type=[]), "invalid_field", "grader.type"),
        ({**multi("a"), "graders": {"a": {"type": {}}}}, "invalid_field", "grader.graders[...].type"),
        ({**CHECK, "operation": "eq", "extra": 1}, "invalid_field", "grader"),
        ({**multi("a"), "graders": [check()]}, "invalid_field", "grader.graders"),
        ({**multi("a"), "graders": {}}, "invalid_field", "grader.graders"),
        ({}, "invalid_field", "grader"),
        ([], "invalid_field", "grader"),
    ],
)
def test_what_is_no_grader_is_refused_by_name(grader, code, field) -> None:
    with pytest.raises(MintError) as refused:
        read_grader(grader)
    assert refused.value.code == code
    assert refused.value.fields.get("field") == field


def test_a_text_that_cannot_be_stored_is_refused() -> None:
    plain = {"type": "string_check", "name": "a", "input": "a", "reference": "\\u0000", "operation": "eq"}
    several = {"type": "multi", "name": "b", "graders": {"a": plain}, "calculate_output": "a"}
    assert read_grader(several)
    for change in ({"input": "a\x00"}, {"name": "\x00"}):
        with pytest.raises(InvalidField, match="character 0"):
            read_grader({**several, "graders": {"a": {**plain, **change}}})
