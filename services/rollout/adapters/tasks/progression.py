"""Task `progression`: the next term of an arithmetic progression, for a small real language model."""

import random
import re
from collections.abc import Iterator

from mint_common.records import Prompt
from services.rollout.adapters.tasks.draw import draw_prompts
from services.rollout.core.task import Split, TaskDefaults, split_of

HELDOUT_BYTES = 64
"""A quarter of the 350 prompts is held out."""


class Progression:
    """``26, 33, 40, `` is answered by ``47``: exactly this number, whatever follows it."""

    name = "progression"
    description = "Say the next term of an arithmetic progression: '26, 33, 40, ' -> '47'."
    defaults = TaskDefaults(
        steps=30,
        prompts_per_step=8,
        group_size=8,
        max_new_tokens=4,
        temperature=1.0,
        learning_rate=5e-4,
        rank=16,
        alpha=32.0,
    )

    def __init__(self, member: str = "") -> None:
        assert not member, "a family without members is asked for itself only"

    @staticmethod
    def members() -> tuple[str, ...]:
        """Return no members: the family is one task."""
        return ()

    def prompts(self, split: Split, n: int, seed: int) -> list[Prompt]:
        """Return ``n`` prompts of a split."""
        return draw_prompts(_candidates(split, random.Random(seed)), n, task=self.name)

    def reward(self, entry: str, text: str) -> float:
        """Return 1.0 when the text starts with the expected number."""
        number = re.match(r"\s*(\d+)", text)
        return float(number is not None and number[1] == entry)


def _candidates(split: Split, rng: random.Random) -> Iterator[Prompt | None]:
    while True:
        first, step = rng.randint(10, 59), rng.randint(2, 8)
        text = f"{first}, {first + step}, {first + 2 * step}, "
        answer = str(first + 3 * step)
        wanted = split_of(text, heldout_bytes=HELDOUT_BYTES) == split
        yield Prompt(text=text, reference=answer, entry=answer) if wanted else None
