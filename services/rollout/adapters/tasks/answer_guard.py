"""Answers that may reach a reasoning-gym verifier that evaluates them.

Some verifiers of the package call `eval` or sympy's `parse_expr` (which calls `eval`) on the answer, and an
answer is text that a model was trained to find rewards with. Invariant: a permitted answer contains no call
but of a known function, no attribute, no string, and no power that takes forever; other verifiers get any
text.
"""

import ast
import re
from collections.abc import Callable
from typing import TypeVar

from mint_common.errors import MintError, TaskFailed
from mint_common.graders import MAX_REWARD
from mint_common.records import Prompt
from services.rollout.core.task import Split, Task, TaskDefaults

EVALUATES_LITERAL = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
EVALUATES_ARITHMETIC = frozenset({"countdown", "puzzle24"})
EVALUATES_FUNCTIONS = frozenset({"intermediate_integration", "simple_integration"})
EVALUATES = EVALUATES_LITERAL | EVALUATES_ARITHMETIC | EVALUATES_FUNCTIONS

MAX_CHARS = 1000
_FUNCTIONS = frozenset(
    {"Abs", "acos", "asin", "atan", "cos", "cosh", "cot", "csc", "exp"}
    | {"ln", "log", "sec", "sin", "sinh", "sqrt", "tan", "tanh"}
)
_PLAIN = re.compile(r"[\w\s,.:;-]*")
_EXPRESSION = re.compile(r"[\w\s.,+*/()-]*")
_CALL = re.compile(r"(\w*)\s*\(")
_CALL_OF_RESULT = re.compile(r"\)\s*\(")
_ATTRIBUTE = re.compile(r"\.\s*[A-Za-z_]|__")
_POWER = re.compile(r"\*\*\s*(?:-?\d{1,2}|\(-?\d{1,2}(?:/\d{1,2})?\)|[a-zA-Z])(?!\w|\s*\*\*)")

T = TypeVar("T")


def is_safe_answer(data_set: str, answer: str, *, reference: str) -> bool:
    """Return whether the data set's verifier may see the answer."""
    if answer == reference or data_set not in EVALUATES:
        return True
    if len(answer) > MAX_CHARS:
        return False
    if data_set in EVALUATES_LITERAL:
        return _is_literal(answer)
    return _is_expression(answer, functions=_FUNCTIONS if data_set in EVALUATES_FUNCTIONS else frozenset())


def _is_literal(answer: str) -> bool:
    if _PLAIN.fullmatch(answer) and not _ATTRIBUTE.search(answer):
        return True
    try:
        ast.literal_eval(answer)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _is_expression(answer: str, *, functions: frozenset[str]) -> bool:
    if not _EXPRESSION.fullmatch(answer) or _ATTRIBUTE.search(answer) or _CALL_OF_RESULT.search(answer):
        return False
    if any(name and name not in functions for name in _CALL.findall(answer)):
        return False
    # Nested powers of numbers, ((9**99)**99)**99, never end: one power of a parenthesis will do.
    return answer.count("**") == len(_POWER.findall(answer)) and len(re.findall(r"\)\s*\*\*", answer)) <= 1


class GuardedTask:
    """A task whose calls raise MintErrors only, and whose rewards are finite, and at most `MAX_REWARD`."""

    def __init__(self, name: str, make: Callable[[], Task]) -> None:
        """Make the task. Raises TaskFailed."""
        self._task = guarded(name, make)
        self.name = name
        self.description: str = guarded(name, lambda: self._task.description)
        self.defaults: TaskDefaults = guarded(name, lambda: self._task.defaults)

    def prompts(self, split: Split, n: int, seed: int) -> list[Prompt]:
        """Return prompts of a split. Raises InvalidField, TaskFailed."""
        return guarded(self.name, lambda: list(self._task.prompts(split, n, seed)))

    def reward(self, entry: str, text: str) -> float:
        """Return the reward of a completion. Raises InvalidField, TaskFailed."""
        reward = guarded(self.name, lambda: float(self._task.reward(entry, text)))
        if not abs(reward) <= MAX_REWARD:
            raise TaskFailed(task=self.name, problem=f"its reward is {reward}")
        return reward


def guarded(name: str, call: Callable[[], T]) -> T:
    """Return the result of a call into a task's code.

    Raises its MintErrors, and TaskFailed for other errors.
    """
    try:
        return call()
    except MintError:
        raise
    except Exception as error:
        raise TaskFailed(task=name, problem=f"{type(error).__name__}: {error}") from error
