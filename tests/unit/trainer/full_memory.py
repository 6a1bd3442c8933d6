"""A base whose memory is full when it meets a line of a certain length."""

from collections.abc import Sequence
from typing import Any

import torch

from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.model.scoring import TokenScores
from services.trainer.core.lines import Line

TOO_LONG = 29
"""Tokens of a line that cannot be scored."""
TOO_LONG_BACKWARD = 31
"""Tokens of a line that can be scored, but not differentiated."""


def fill_memory(base: ResidentBase) -> None:
    """Let a base fail as one does that runs out of memory."""
    score = base.score

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def scored(lines: Sequence[Line], *more: Any, **options: Any) -> TokenScores:  # as the original
        lengths = {len(line.read().token_L) for line in lines}
        if TOO_LONG in lengths:
            full()
        found = score(lines, *more, **options)
        if TOO_LONG_BACKWARD in lengths and found.logprobs_T.requires_grad:
            found.logprobs_T.register_hook(full)
        return found

    base.score = scored  # type: ignore[method-assign]  # this object's alone
