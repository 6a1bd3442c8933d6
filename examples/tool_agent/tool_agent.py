"""A model with a calculator: an ordinary environment of verifiers, with nothing of MinT in it.

mint env add verifiers examples/tool_agent
mint policy create calculator --base BASE      # one whose chat template has tools
mint job create calculator --env verifiers:tool-agent --max-turns 4 --max-new-tokens 128 --steps 50 --watch
"""

import ast
import operator
import random
from collections.abc import Callable
from typing import Any

import verifiers as vf
from datasets import Dataset

_OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def calculate(expression: str) -> str:
    """Compute an arithmetic expression.

    Args:
        expression: Numbers with + - * / and parentheses, such as "12 * (3 + 4)".
    """
    return f"{_value(ast.parse(expression, mode='eval').body):.15g}"


def _value(node: ast.AST) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.BinOp):
        return _OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError("only numbers with + - * / and parentheses")


def correct(completion: Any, answer: str, **_: Any) -> float:
    """Reward an episode whose last message has the answer."""
    return float(answer in str(completion[-1].content).split())


def load_environment(n: int = 200, seed: int = 0, max_turns: int = 4) -> vf.Environment:
    """Return the environment: ``n`` products of two numbers."""
    dice = random.Random(seed)
    pairs = [(dice.randrange(100, 1000), dice.randrange(100, 1000)) for _ in range(n)]
    rows = [{"question": f"What is {a} * {b}?", "answer": str(a * b)} for a, b in pairs]
    return vf.ToolEnv(
        dataset=Dataset.from_list(rows),
        system_prompt="Use the calculator. Then answer with the number alone.",
        tools=[calculate],
        rubric=vf.Rubric(funcs=[correct]),
        max_turns=max_turns,
    )
