"""The learning rate of a job's steps: a warm-up, then a schedule."""

import math

from mint_common.events import JobSpec


def learning_rate_at(spec: JobSpec, step: int) -> float:
    """Return the learning rate of a step, which counts from 1; it is transformers' of `get_scheduler`.

    With k = step - 1 steps before it, W = ``warmup_steps`` and T = ``steps``, the job's ``learning_rate`` is
    multiplied by k / W while k < W, and then, with p = (k - W) / (T - W), by 1 (constant), 1 - p (linear) or
    (1 + cos(pi p)) / 2 (cosine). A warm-up begins at 0, and a decay would reach 0 at the step after the last.
    """
    before, warmup = step - 1, spec.warmup_steps
    if before < warmup:
        return spec.learning_rate * (before / warmup)
    left, whole = spec.steps - before, max(1, spec.steps - warmup)
    match spec.schedule:
        case "constant":
            return spec.learning_rate
        case "linear":
            return spec.learning_rate * max(0.0, left / whole)
        case "cosine":
            share = (before - warmup) / whole
            return spec.learning_rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * share)))
