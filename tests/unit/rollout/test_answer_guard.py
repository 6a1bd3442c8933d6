"""What of a model's answer may reach a verifier that evaluates it."""

import builtins

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rollout.adapters.tasks.answer_guard import (
    EVALUATES,
    EVALUATES_ARITHMETIC,
    EVALUATES_FUNCTIONS,
    EVALUATES_LITERAL,
    is_safe_answer,
)

ATTACKS = (
    "__import__('os').system('id')",
    "open('/etc/passwd').read()",
    "eval(chr(49))",
    "(eval)('1')",
    "[eval][0]('1')",
    "().__class__",
    "x.real",
    "sin('open(1)')",
    "f'{exit()}'",
    "9**9**9",
    "((9**99)**99)**99",
    "9**(9*9*9*9*9*9*9*9*9)",
    "[1]*99999999999",
    "\uff45val(1)",
    "9" * 2000,
)


@pytest.mark.parametrize("data_set", sorted(EVALUATES))
@pytest.mark.parametrize("attack", ATTACKS)
def test_code_never_reaches_a_verifier(data_set: str, attack: str) -> None:
    assert not is_safe_answer(data_set, attack, reference="1")


@pytest.mark.parametrize("data_set", sorted(EVALUATES_FUNCTIONS))
@pytest.mark.parametrize(
    "answer", ["3*x**2/2 + C", "x*exp(x) - exp(x) + C", "-cos(x)**2 + 5*log(x)", "2*x**(3/2)/3", "(x + 1)*3"]
)
def test_integrals_do(data_set: str, answer: str) -> None:
    assert is_safe_answer(data_set, answer, reference="")


@pytest.mark.parametrize("data_set", sorted(EVALUATES_ARITHMETIC))
@pytest.mark.parametrize("answer", ["(1 + 2)*3 - 4/5", "7 - (8/8 + 11)", "2**3*3"])
def test_arithmetic_does(data_set: str, answer: str) -> None:
    assert is_safe_answer(data_set, answer, reference="")


@pytest.mark.parametrize("data_set", sorted(EVALUATES_LITERAL))
@pytest.mark.parametrize("answer", ["[[1, 0], [0, 1]]", "1 2 3 4", "['A', 'B']", "A B_C", "Q _ _\n_ Q _"])
def test_literals_do(data_set: str, answer: str) -> None:
    assert is_safe_answer(data_set, answer, reference="")


@given(text=st.text(max_size=60), name=st.sampled_from(list(dir(builtins))))
def test_a_call_of_a_builtin_is_never_safe(text: str, name: str) -> None:
    for data_set in EVALUATES_ARITHMETIC | EVALUATES_FUNCTIONS:
        assert not is_safe_answer(data_set, f"{text}{name}(1)", reference="")


@given(text=st.text())
def test_other_data_sets_see_any_text(text: str) -> None:
    assert is_safe_answer("chain_sum", text, reference="")
