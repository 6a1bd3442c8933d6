"""Formulas over the rewards of graders: numbers, names, + - * / ^ and a few functions; nothing else runs."""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

from mint_common.errors import InvalidField

MAX_LENGTH = 1000
MAX_NESTING = 100
"""Operations within one another: a value takes as many calls within one another."""

MAX_REWARD = 1e9
"""Maximum magnitude of a grader's reward: sums and squares of rewards stay finite."""

_BINARY: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.BitXor: math.pow,  # "^" is a power there
    ast.Pow: math.pow,
}
_UNARY: Mapping[type[ast.unaryop], Callable[[float], float]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_FUNCTIONS: Mapping[str, tuple[Callable[..., float], int, int]] = {
    "min": (min, 2, 10),
    "max": (max, 2, 10),
    "abs": (abs, 1, 1),
    "floor": (math.floor, 1, 1),
    "ceil": (math.ceil, 1, 1),
    "exp": (math.exp, 1, 1),
    "sqrt": (math.sqrt, 1, 1),
    "log": (math.log, 1, 1),
}
"""Functions by name, with how many arguments they take."""
_PARTS = f"it is of numbers, graders, + - * / ^, {', '.join(_FUNCTIONS)}"

_WRITTEN = re.compile(
    r"(?:\s++|[^\W\d]\w*+|(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?+(?![\w.])|[-+*/^(),])*+"
)
"""Allowed parts of a formula: blanks, names, numbers, signs. The parser may warn of others on stderr."""


class FormulaFault(Exception):
    """A formula has no value within `MAX_REWARD` for some rewards."""


class Formula:
    """A formula over names. Made from a text, which is checked whole. Raises InvalidField."""

    def __init__(self, text: str, names: AbstractSet[str]) -> None:
        self._root = _parse(text)
        _check_nesting(self._root)
        for node in ast.walk(self._root):
            _check(node, names)

    def value(self, rewards: Mapping[str, float]) -> float:
        """Return the value. Raises FormulaFault unless it is a number within `MAX_REWARD`."""
        try:
            found = float(_evaluate(self._root, rewards))
        except (ArithmeticError, ValueError) as error:
            raise FormulaFault(str(error)) from error
        if not abs(found) <= MAX_REWARD:
            raise FormulaFault(f"the value is {found}, which is not a number within +-{MAX_REWARD:,.0f}")
        return found


def _parse(text: str) -> ast.expr:
    if len(text) > MAX_LENGTH:
        _refuse(f"has more than {MAX_LENGTH} characters")
    if not _WRITTEN.fullmatch(text):
        _refuse(f"is not a formula: {_PARTS}")
    try:
        # In Python "^" binds weaker than "+"; "**" is the power that a reader of the formula means.
        return ast.parse(text.strip().replace("^", "**"), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        _refuse("is not a formula")
    raise AssertionError  # _refuse raises


def _check_nesting(root: ast.expr) -> None:
    level: list[ast.AST] = [root]
    for _ in range(MAX_NESTING):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return
    _refuse(f"has more than {MAX_NESTING} operations within one another, or in one sum or product")


def _check(node: ast.AST, names: AbstractSet[str]) -> None:
    match node:
        case ast.Name(id=name) if name in names or name in _FUNCTIONS:
            pass
        case ast.Constant(value=int() | float() as value) if (
            not isinstance(value, bool) and abs(value) < 1e15
        ):
            pass
        case ast.BinOp(op=op) if type(op) in _BINARY:
            pass
        case ast.UnaryOp(op=op) if type(op) in _UNARY:
            pass
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            _, least, most = _FUNCTIONS[name]
            if not least <= len(args) <= most:
                _refuse(f"{name} takes {least} to {most} numbers")
        case ast.operator() | ast.unaryop() | ast.expr_context():
            pass
        case ast.Name(id=name):
            _refuse(f"has {name[:40]!r}, which is neither a grader nor a function")
        case _:
            _refuse(f"has {type(node).__name__}: {_PARTS}")


def _evaluate(node: ast.expr, rewards: Mapping[str, float]) -> float:
    """Return a part's value; of NaN there is none, which min and max would pass over."""
    found = _computed(node, rewards)
    if math.isnan(found):
        raise FormulaFault("a part of it is not a number")
    return found


def _computed(node: ast.expr, rewards: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.Name(id=name):
            if name not in rewards:
                raise FormulaFault(f"{name} has no reward")
            return rewards[name]
        case ast.UnaryOp(op=unary, operand=operand):
            return _UNARY[type(unary)](_evaluate(operand, rewards))
        case ast.BinOp(left=left, op=binary, right=right):
            return _BINARY[type(binary)](_evaluate(left, rewards), _evaluate(right, rewards))
        case ast.Call(func=ast.Name(id=name), args=args):
            return _FUNCTIONS[name][0](*(_evaluate(each, rewards) for each in args))
    raise AssertionError(node)  # checked when it was made


def _refuse(problem: str) -> None:
    raise InvalidField(field="grader.calculate_output", problem=problem)
