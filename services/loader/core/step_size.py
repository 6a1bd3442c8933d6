"""Limit the sequences of an engine step, so that the loader keeps up with its outputs."""


def next_sequences(sequences: int, *, least: int, most: int, is_behind: bool) -> int:
    """Return the maximum sequences of the next step: half as many while the loader is behind, else one more.

    Additive increase, multiplicative decrease (Chiu and Jain, 1989): the loader's time for a sequence is
    0.05 ms or, with 20 log-probabilities, 0.5 ms, and is not known beforehand.
    """
    return max(least, sequences // 2) if is_behind else min(most, sequences + 1)
