"""Tasks `reasoning-gym:<data set>`: the procedural data sets of reasoning-gym, with their verifiers.

Invariants: - An entry is only a seed and an index: the item is made again from them, so that no caller can
hand a verifier
  an item of his own.
- Nothing of an answer is ever run as code, though some of the package's verifiers would (`answer_guard`).
"""

import hashlib
import itertools
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Protocol

import msgspec

from mint_common.errors import InvalidField
from mint_common.records import Prompt
from services.rollout.adapters.tasks.answer_guard import is_safe_answer
from services.rollout.adapters.tasks.draw import draw_prompts
from services.rollout.core.task import Split, TaskDefaults, derive_seed, split_of

HELDOUT_BYTES = 64
CHUNK = 64
"""Items are drawn from data sets of this size, since a few generators depend on the size."""

_NOT_REPEATABLE = "its items depend on the hash seed of the process, so they cannot be generated again"
LEFT_OUT: Mapping[str, str] = {
    "composite": "it is made of other data sets, and a name does not say of which",
    "isomorphic_strings": _NOT_REPEATABLE,
    "knight_swap": _NOT_REPEATABLE,
    "polynomial_multiplication": _NOT_REPEATABLE,
    "ransom_note": _NOT_REPEATABLE,
    "word_ladder": _NOT_REPEATABLE,
    "zebra_puzzles": "it needs the package pycosat, which comes as source alone and takes a C compiler",
}
"""Data sets of the package that are not tasks, with the reasons."""

Item = dict[str, Any]  # the package's own item: question, answer and metadata of any shape


class DataSet(Protocol):
    """The part of a reasoning-gym data set that is used here."""

    def __getitem__(self, index: int) -> Item:
        """Make an item."""

    def score_answer(self, answer: str, entry: Item) -> float:
        """Return a score from 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The origin of an item, and a check that the installed package still generates the same item."""

    seed: int
    index: int
    check: str


class ReasoningGym:
    """One data set. A few have many right answers and no reference: their prompts have an empty one."""

    defaults = TaskDefaults(
        steps=50,
        prompts_per_step=8,
        group_size=8,
        max_new_tokens=64,
        temperature=1.0,
        learning_rate=2e-4,
        rank=16,
        alpha=32.0,
    )

    def __init__(self, member: str) -> None:
        self.name = f"reasoning-gym:{member}"
        self.description = f"The data set {member} of the reasoning-gym package."
        self._data_set = member

    @staticmethod
    def members() -> tuple[str, ...]:
        """Return the names of the data sets."""
        return tuple(sorted(set(_package_names()) - LEFT_OUT.keys()))

    @staticmethod
    def left_out() -> Mapping[str, str]:
        """Return the data sets that are not tasks, with the reasons."""
        return LEFT_OUT

    def prompts(self, split: Split, n: int, seed: int) -> list[Prompt]:
        """Return ``n`` prompts of a split."""
        return draw_prompts(self._candidates(split, seed), n, task=self.name)

    def reward(self, entry: str, text: str) -> float:
        """Return the verifier's score of an answer, 0.0 for one that it cannot read. Raises InvalidField."""
        item = self._item_of(entry)
        answer = text.strip()
        if not is_safe_answer(self._data_set, answer, reference=str(item["answer"])):
            return 0.0
        try:
            return float(_data_set(self._data_set, 0).score_answer(answer, item))
        except Exception:  # noqa: BLE001  # a verifier of the package may raise anything at an odd answer
            return 0.0

    def _candidates(self, split: Split, seed: int) -> Iterator[Prompt | None]:
        for position in itertools.count():
            chunk, index = divmod(position, CHUNK)
            chunk_seed = derive_seed(seed, chunk)
            item = _item(self._data_set, chunk_seed, index)
            question = item["question"]
            if split_of(question, heldout_bytes=HELDOUT_BYTES) != split:
                yield None
                continue
            entry = Entry(seed=chunk_seed, index=index, check=_check(question))
            reference = item["answer"] if isinstance(item["answer"], str) else ""
            yield Prompt(text=question, reference=reference, entry=msgspec.json.encode(entry).decode())

    def _item_of(self, text: str) -> Item:
        try:
            entry = msgspec.json.decode(text, type=Entry)
        except msgspec.DecodeError as error:
            raise InvalidField(field="entry", problem=str(error)) from error
        if not (0 <= entry.seed < 1 << 31 and 0 <= entry.index < CHUNK):
            raise InvalidField(field="entry", problem="seed or index out of range")
        item = _item(self._data_set, entry.seed, entry.index)
        if _check(item["question"]) != entry.check:
            problem = f"not an item of {self.name} as this version of reasoning-gym makes it"
            raise InvalidField(field="entry", problem=problem)
        return item


def _check(question: str) -> str:
    return hashlib.sha256(question.encode()).hexdigest()[:16]


@cache
def _package_names() -> Sequence[str]:
    with warnings.catch_warnings(), _without_pycosat():
        # A dependency of the package compares with a literal by `is`; Python warns when it first compiles it.
        warnings.simplefilter("ignore", SyntaxWarning)
        from reasoning_gym.factory import DATASETS  # takes seconds and is not needed by the other tasks
    return list(DATASETS)


@contextmanager
def _without_pycosat() -> Iterator[None]:
    """Import the package without pycosat, which it always imports but only `zebra_puzzles` uses."""
    if find_spec("pycosat") is not None:
        yield
        return
    sys.modules["pycosat"] = ModuleType("pycosat")
    try:
        yield
    finally:
        del sys.modules["pycosat"]  # sympy asks whether it is there


@lru_cache(maxsize=32)
def _data_set(name: str, seed: int) -> DataSet:
    _package_names()
    import reasoning_gym

    made: DataSet = reasoning_gym.create_dataset(name, size=CHUNK, seed=seed)
    return made


@lru_cache(maxsize=1024)
def _item(name: str, seed: int, index: int) -> Item:
    return _data_set(name, seed)[index]
