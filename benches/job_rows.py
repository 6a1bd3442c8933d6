"""Rows for bench jobs: words to be sorted, as chats of SmolLM2 and as lines of a file."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformers import AutoTokenizer

_NAMES = "apple river stone cloud paper tiger window garden silver candle bridge forest mirror engine pocket"
_WORDS = _NAMES.split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A prompt with a right answer, and for pairs a wrong one, as token ids."""

    prompt: tuple[int, ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...] | None


def rows_of(folder: Path, method: Literal["sft", "dpo"], *, count: int) -> list[Answered]:
    """Return so many rows by a base's tokenizer and chat template."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rng = random.Random(0)
    rows = []
    for _ in range(count):
        words = rng.sample(_WORDS, rng.randint(3, 12))
        ask = [{"role": "user", "content": f"Sort these words: {' '.join(words)}"}]
        text = tokenizer.apply_chat_template(ask, tokenize=False, add_generation_prompt=True)
        wrong = list(words)
        while wrong == sorted(words):
            rng.shuffle(wrong)
        prompt, right, mixed = (
            tuple(tokenizer(part, add_special_tokens=False)["input_ids"])
            for part in (text, f"{' '.join(sorted(words))}<|im_end|>", f"{' '.join(wrong)}<|im_end|>")
        )
        rows.append(Answered(prompt=prompt, right=right, wrong=mixed if method == "dpo" else None))
    return rows


def trl_rows(method: Literal["sft", "dpo"], rows: Sequence[Answered]) -> list[dict[str, list[int]]]:
    """Return rows as TRL's collators read them, the prompts of SFT masked by their position."""
    if method == "dpo":
        return [
            {"prompt_ids": [*row.prompt], "chosen_ids": [*row.right], "rejected_ids": [*(row.wrong or ())]}
            for row in rows
        ]
    return [
        {"input_ids": [*row.prompt, *row.right], "labels": [*[-100] * len(row.prompt), *row.right]}
        for row in rows
    ]


def chat_lines(count: int, *, seed: int) -> bytes:
    """Return a file of so many short chats, no two of them alike."""
    rng = random.Random(seed)
    lines = []
    for number in range(count):
        words = " ".join(rng.choices(_WORDS, k=5))
        messages = [
            {"role": "user", "content": f"{number}: sort {words}"},
            {"role": "assistant", "content": " ".join(sorted(words.split()))},
        ]
        lines.append(json.dumps({"messages": messages}))
    return ("\n".join(lines) + "\n").encode()
