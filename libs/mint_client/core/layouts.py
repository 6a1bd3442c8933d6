"""Layouts of rows that data sets have, and the row of MinT that each one becomes.

Invariant: a row is converted by itself, to a row of one format or to a RowProblem.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mint_client.core.messages import Message, said_by
from mint_client.core.row_columns import Columns, Row
from mint_common.datasets import RowProblem

_ASKED = ("instruction", "question", "query", "prompt")
_ANSWERED = ("output", "response", "answer")
_GIVEN = ("input", "context")
_LABELS = {"true": True, "1": True, "false": False, "0": False}
_BEFORE_ANSWERS = frozenset({"user", "system", "developer"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLayout:
    """Columns that rows have in common: at least one of each group of ``needs``."""

    name: str
    needs: Sequence[Sequence[str]]
    convert: Callable[[Columns], Row]

    def fits(self, names: Collection[str]) -> bool:
        """Return whether a row with these columns is of this layout."""
        return all(any(name in names for name in group) for group in self.needs)

    def missing_in(self, row: Mapping[str, Any], *, others: Collection[str]) -> str:
        """Return the first column that a row lacks, by the name that other rows have for it, or ""."""
        groups = (group for group in self.needs if all(row.get(name) is None for name in group))
        return next((name for group in groups for name in group if name in others), "")

    def within(self, other: "RowLayout") -> bool:
        """Return whether a row of this layout lacks only columns of another one."""
        return set(map(tuple, self.needs)) < set(map(tuple, other.needs))


def _pairs(columns: Columns) -> Row:
    return {name: columns.value(name) for name in ("input", "preferred_output", "non_preferred_output")}


def _chat(columns: Columns) -> Row:
    """Return a conversation; of one that ends with the user, graders read all other columns."""
    messages = columns.messages(columns.has("messages", "conversations"))
    row = {"messages": messages, **columns.beside()}
    ends_with_user = bool(messages) and messages[-1].get("role") == "user"
    return {**columns.others(), **row} if ends_with_user else row


def _asked(columns: Columns) -> list[Message]:
    """Return the conversation that an answer continues."""
    name = columns.has("conversations", *_ASKED)
    if name == "conversations" or not columns.is_text(name):
        return columns.messages(name)
    asked, given = columns.text(name), columns.optional(*_GIVEN)
    user = said_by("user", f"{asked}\n{given}" if given else asked)
    return [*columns.system(), *_history(columns), user]


def _history(columns: Columns) -> list[Message]:
    """Return earlier turns, each a pair of question and answer."""
    turns = columns.value("history") if columns.has("history") else []
    pairs = isinstance(turns, list) and all(isinstance(turn, list) and len(turn) == 2 for turn in turns)
    if not pairs:
        raise RowProblem("invalid_value", "column history: expected a list of pairs of question and answer")
    return [
        said_by(role, text) for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


def _question(columns: Columns) -> Row:
    return {"messages": [*_asked(columns), *columns.answer(*_ANSWERED)], **columns.beside()}


def _completion(columns: Columns) -> Row:
    """Return a prompt and its completion: two texts as they are, anything else as messages."""
    texts = all(columns.is_text(name) for name in ("prompt", "completion"))
    if texts and not columns.has_system():
        return {name: columns.text(name) for name in ("prompt", "completion")}
    return {"prompt": _asked(columns), "completion": columns.answer("completion"), **columns.beside()}


def _kto(columns: Columns) -> Row:
    label = columns.value("label")
    known = str(label).lower()
    return {**_completion(columns), "label": _LABELS.get(known, label)}


def _preference(columns: Columns) -> Row:
    """Return a pair of answers and the prompt of both, which may be the beginning that they share."""
    asked = columns.has("conversations", *_ASKED)
    if columns.is_text("chosen") and columns.is_text("rejected"):
        chosen, rejected = columns.text("chosen"), columns.text("rejected")
        if not asked:
            return _shared_text(chosen, rejected)
        if asked == "prompt" and columns.is_text("prompt") and not columns.has_system():
            return {"prompt": columns.text("prompt"), "chosen": chosen, "rejected": rejected}
    answers = {name: columns.answer(name) for name in ("chosen", "rejected")}
    have_prompt = all(answer[0].get("role") in _BEFORE_ANSWERS for answer in answers.values())
    if asked and not have_prompt:
        return {"prompt": _asked(columns), **answers, **columns.beside()}
    if asked:
        columns.value(asked)  # both conversations begin with it
    end = _differ_at(answers["chosen"], answers["rejected"])
    prompt = columns.begun(answers["chosen"][:end])
    return {"prompt": prompt, **{name: answer[end:] for name, answer in answers.items()}, **columns.beside()}


def _shared_text(chosen: str, rejected: str) -> Row:
    """Cut two texts where they begin to differ, as TRL does: a space before belongs to the answers."""
    end = _differ_at(chosen, rejected)
    if end and chosen[end - 1] == " ":
        end -= 1
    return {"prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:]}


def _differ_at(chosen: Sequence[object], rejected: Sequence[object]) -> int:
    """Return where two answers begin to differ; each keeps something. Raises RowProblem."""
    if chosen == rejected:
        raise RowProblem("invalid_value", "columns chosen and rejected are equal")
    places = range(min(len(chosen), len(rejected)))
    end = next((place for place in places if chosen[place] != rejected[place]), len(places) - 1)
    if end <= 0:
        problem = "columns chosen and rejected share no beginning, and there is no column prompt"
        raise RowProblem("missing_field", problem)
    return end


def _prompts(columns: Columns) -> Row:
    """Return a prompt to sample answers to; graders read all other columns."""
    row = {"messages": _asked(columns), **columns.beside()}
    return {**columns.others(), **row}


def _text(columns: Columns) -> Row:
    return {"text": columns.text("text")}


def _each(*names: str) -> list[tuple[str]]:
    return [(name,) for name in names]


PROMPTS = RowLayout(name="prompt", needs=_each("prompt"), convert=_prompts)
LAYOUTS: Sequence[RowLayout] = (
    RowLayout(
        name="OpenAI's pairs",
        needs=_each("input", "preferred_output", "non_preferred_output"),
        convert=_pairs,
    ),
    RowLayout(name="KTO", needs=_each("prompt", "completion", "label"), convert=_kto),
    RowLayout(name="preference", needs=_each("chosen", "rejected"), convert=_preference),
    RowLayout(name="chat", needs=_each("messages"), convert=_chat),
    RowLayout(name="ShareGPT", needs=_each("conversations"), convert=_chat),
    RowLayout(name="completion", needs=_each("prompt", "completion"), convert=_completion),
    RowLayout(name="Alpaca", needs=[("instruction",), _ANSWERED], convert=_question),
    RowLayout(
        name="question and answer", needs=[("question", "query", "prompt"), _ANSWERED], convert=_question
    ),
    PROMPTS,
    RowLayout(name="text", needs=_each("text"), convert=_text),
)
"""A row is of the first that fits its columns."""


def layout_of(names: Collection[str]) -> RowLayout | None:
    """Return the layout of a row that has these columns."""
    return next((layout for layout in LAYOUTS if layout.fits(names)), None)


def mapped(row: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[Row, Row]:
    """Return the columns of a row that are mapped, by their new names, and the other ones.

    A column may be a path into an object or a list: ``answers.text.0``.
    """
    found = {name: _at(row, path) for name, path in columns.items()}
    heads = {path if path in row else path.partition(".")[0] for path in columns.values()}
    return found, {name: value for name, value in row.items() if name not in heads}


def _at(row: Mapping[str, Any], path: str) -> Any:
    """Return what is at a path, or None."""
    found: Any = row
    for step in [path] if path in row else path.split("."):
        if isinstance(found, list) and step.isdecimal():
            found = found[int(step)] if int(step) < len(found) else None
        else:
            found = found.get(step) if isinstance(found, Mapping) else None
    return found
