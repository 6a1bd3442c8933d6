"""Similarity of two texts, from 0 to 1: rapidfuzz's ratio, and the F measure of rouge-score."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

_WORD = re.compile(r"[a-z0-9]+")


def fuzzy_match(text: str, reference: str) -> float:
    """Return twice the length of the longest common subsequence over the length of both."""
    from rapidfuzz.distance import Indel  # 30 ms to import; most stacks compare no texts

    likeness: float = Indel.normalized_similarity(text, reference)
    return likeness


def rouge_l(text: str, reference: str) -> float:
    """Return the F measure of the longest common subsequence of words."""
    from rapidfuzz.distance import LCSseq

    mine, theirs = words(text), words(reference)
    return _f_measure(LCSseq.similarity(mine, theirs), len(mine), len(theirs))


def rouge_n(text: str, reference: str, *, n: int) -> float:
    """Return the F measure of common runs of ``n`` words."""
    mine, theirs = _runs(words(text), n), _runs(words(reference), n)
    return _f_measure((mine & theirs).total(), mine.total(), theirs.total())


METRICS: Mapping[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "rouge_l": rouge_l,
    **{f"rouge_{n}": partial(rouge_n, n=n) for n in range(1, 6)},
}


def words(text: str) -> list[str]:
    """Return the words of a text as rouge-score splits it: letters and digits of ASCII, in lower case."""
    return _WORD.findall(text.lower())


def _runs(found: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(found[start : start + n]) for start in range(len(found) - n + 1))


def _f_measure(common: int, mine: int, theirs: int) -> float:
    return 2 * common / (mine + theirs) if common else 0.0
