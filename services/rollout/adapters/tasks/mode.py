"""Tasks `mode:copy`, `mode:rev`, `mode:rot1`, `mode:sort`: which function of a word the prompt `f` means.

The tiny base answers ``f abcd=`` with any one of the four functions; a policy is rewarded for one of them.
"""

import random
from collections.abc import Callable, Iterator, Mapping

from mint_common.records import Prompt
from services.rollout.adapters.tasks.draw import draw_prompts
from services.rollout.core.task import Split, TaskDefaults, split_of

ALPHABET = "abcdefghij"
HELDOUT_BYTES = 26
"""A tenth of the words is held out; the tiny base has not seen them either."""

FUNCTIONS: Mapping[str, Callable[[str], str]] = {
    "copy": lambda word: word,
    "rev": lambda word: word[::-1],
    "rot1": lambda word: "".join(ALPHABET[(ALPHABET.index(letter) + 1) % len(ALPHABET)] for letter in word),
    "sort": lambda word: "".join(sorted(word)),
}


class Mode:
    """Answer ``f <word>=`` by one function of the word and nothing else."""

    defaults = TaskDefaults(
        steps=60,
        prompts_per_step=8,
        group_size=16,
        max_new_tokens=8,
        temperature=1.0,
        learning_rate=2e-3,
        rank=8,
        alpha=16.0,
    )

    def __init__(self, member: str) -> None:
        self.name = f"mode:{member}"
        self.description = (
            f"Answer 'f <word>=' by {member} of the word: 'f abca=' -> {FUNCTIONS[member]('abca')!r}."
        )
        self._answer = FUNCTIONS[member]

    @staticmethod
    def members() -> tuple[str, ...]:
        """Return the names of the functions."""
        return tuple(FUNCTIONS)

    def prompts(self, split: Split, n: int, seed: int) -> list[Prompt]:
        """Return ``n`` prompts of a split."""
        return draw_prompts(self._candidates(split, random.Random(seed)), n, task=self.name)

    def reward(self, entry: str, text: str) -> float:
        """Return 1.0 for exactly the expected word."""
        return float(text == entry)

    def _candidates(self, split: Split, rng: random.Random) -> Iterator[Prompt | None]:
        while True:
            word = "".join(rng.choices(ALPHABET, k=rng.randint(3, 6)))
            if split_of(word, heldout_bytes=HELDOUT_BYTES) != split:
                yield None
                continue
            answer = self._answer(word)
            yield Prompt(text=f"f {word}=", reference=answer, entry=answer)
