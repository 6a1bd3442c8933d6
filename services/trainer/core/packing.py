"""Pack rows into lines of a forward pass: rows with the same prompt share one copy of it.

A line is the prompt, then each row's tokens but the last. Every row sees the prompt and itself, so that its
numbers are those of a separate line (tests/unit/trainer), for fewer computed tokens: a group of G answers
of C tokens to a prompt of P costs P + G C instead of G (P + C).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np

from mint_common.records import trained_ranges
from services.trainer.core.batch import Row
from services.trainer.core.lines import PROMPT, LineTokens
from services.trainer.core.losses.loss import SequenceInputs

MIN_SAVED = 0.05
"""Share of the tokens that is worth lines of several rows, whose attention needs a matrix of who sees whom.

A token that begins every sequence is shared by all rows of a file.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedSequence:
    """Rows of one temperature after one copy of their prompt.

    ``policy`` numbers their policy within a batched step.
    """

    policy: int
    rows: tuple[Row, ...]

    @property
    def prompt(self) -> tuple[int, ...]:
        """Return the prompt of every row."""
        return self.rows[0].prompt

    @property
    def length(self) -> int:
        """Return the number of tokens that the model reads."""
        return len(self.prompt) + sum(len(row.tokens) - 1 for row in self.rows)

    @property
    def targets(self) -> int:
        """Return the number of tokens that the loss falls on."""
        return sum(row.targets for row in self.rows)

    @property
    def width(self) -> int:
        """Return that positions have one target each."""
        return 0

    def sequences(self) -> list[SequenceInputs]:
        """Return the loss's inputs of each row."""
        return [_inputs(row) for row in self.rows]

    def read(self) -> LineTokens:
        """Return the line as numbers."""
        prompt = len(self.prompt)
        tokens, owner, position = list(self.prompt), [PROMPT] * prompt, list(range(prompt))
        where: list[int] = []
        for number, row in enumerate(self.rows, start=1):
            answered = len(row.tokens) - 1
            where += row.picked((prompt - 1, *range(len(tokens), len(tokens) + answered)))
            tokens += row.tokens[:-1]
            owner += [number] * answered
            position += range(prompt, prompt + answered)
        return LineTokens(
            policy=self.policy,
            token_L=np.array(tokens, np.int64),
            where_T=np.array(where, np.int64),
            targets=np.array([token for row in self.rows for token in row.picked(row.tokens)], np.int64),
            owner_L=np.array(owner, np.int64),
            position_L=np.array(position, np.int64),
            shares_prompt=len(self.rows) > 1,
            routes=(
                (self.rows[0].prompt_experts, prompt),
                *((row.experts, len(row.tokens) - 1) for row in self.rows),
            ),
            temperature=self.rows[0].temperature,
        )


def _inputs(row: Row) -> SequenceInputs:
    count = row.targets
    arrays = {"advantages": np.full(count, row.advantage, np.float32)}
    if row.logprobs:
        arrays["logprobs"] = np.array(row.picked(row.logprobs), np.float32)
    if row.teacher:
        arrays["teacher"] = np.array(row.picked(row.teacher), np.float32)
    if row.weight is not None:
        arrays["weights"] = np.full(count, row.weight, np.float32)
    return SequenceInputs(targets=count, arrays=arrays)


def pack_rows(rows: Sequence[Row], *, policy: int, max_length: int) -> list[PackedSequence]:
    """Return the rows as lines, in the order in which prompts first appear.

    A line of several rows is at most ``max_length`` long, which bounds its attention; 0 shares nothing.
    """
    by_prompt: dict[tuple[tuple[int, ...], bytes, float], list[Row]] = {}
    for row in rows:
        by_prompt.setdefault((row.prompt, row.prompt_experts, row.temperature), []).append(row)
    return [
        PackedSequence(policy=policy, rows=members)
        for (prompt, *_), group in by_prompt.items()
        for members in _fill(group, room=max_length - len(prompt))
    ]


def behind_shared_beginning(rows: Sequence[Row]) -> Sequence[Row]:
    """Return the rows with their prompts' longest common prefix shared, if that saves `MIN_SAVED` tokens.

    This holds for chats with one system prompt. The rest of each prompt becomes untrained tokens:
    a row's numbers do not change but for rounding. Sampled rows are returned unchanged.
    """
    if any(row.logprobs for row in rows):
        return rows
    prompts = {row.prompt for row in rows}
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False)))
    tokens = sum(map(len, prompts)) + sum(len(row.tokens) - 1 for row in rows)
    saved = tokens - shared - sum(row.length - shared for row in rows)
    return [_moved(row, shared) for row in rows] if shared and saved >= MIN_SAVED * tokens else rows


def _moved(row: Row, begin: int) -> Row:
    """Return a row whose prompt ends early."""
    rest = row.prompt[begin:]
    ranges = trained_ranges(row.tokens, row.trained)
    return replace(
        row,
        prompt=row.prompt[:begin],
        tokens=rest + row.tokens,
        trained=tuple((start + len(rest), end + len(rest)) for start, end in ranges),
    )


def _fill(group: Iterable[Row], *, room: int) -> Iterable[tuple[Row, ...]]:
    members: list[Row] = []
    used = 0
    for row in group:
        if members and used + len(row.tokens) - 1 > room:
            yield tuple(members)
            members, used = [], 0
        members.append(row)
        used += len(row.tokens) - 1
    yield tuple(members)
