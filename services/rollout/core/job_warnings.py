"""Warnings about a job at its submission. A warning never refuses the job."""

from dataclasses import dataclass

from mint_common.events import JobSpec

HIGH_LEARNING_RATE = 0.01
"""AdamW moves each weight by about this much a step; LoRA is trained at 1e-4 to 1e-3 as a rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLengths:
    """Tokens of a job's first prompts on its base, and of their reference answers with the stop token."""

    prompts: tuple[int, ...]
    references: tuple[int, ...]


def job_warnings(spec: JobSpec, lengths: TaskLengths | None, *, max_context: int) -> tuple[str, ...]:
    """Return the warnings, one sentence each; ``lengths`` is None if they were not counted in time."""
    found = [rate_warning(spec)]
    if lengths is not None:
        found += [_of_prompts(spec, lengths, max_context), _of_answers(spec, lengths)]
    return tuple(one for one in found if one)


def task_change_warnings(
    spec: JobSpec, earlier_task: str | None, *, policy: str, number: int
) -> tuple[str, ...]:
    """Warn of another task than that of the policy's job before; ``number`` is its latest revision."""
    if earlier_task in {None, spec.task}:
        return ()
    warning = (
        f"policy {policy} was last trained on {earlier_task}: this job goes on from its revision {number},"
        f" and what it can do of {earlier_task} may be lost; for {spec.task} alone, create another policy"
    )
    return (warning,)


def rate_warning(spec: JobSpec) -> str:
    """Return the warning about a job's learning rate, or nothing."""
    if spec.learning_rate <= HIGH_LEARNING_RATE:
        return ""
    return (
        f"learning_rate {spec.learning_rate:g} is above {HIGH_LEARNING_RATE:g}: rates of this size often"
        " destroy a policy within a few steps"
    )


def _of_prompts(spec: JobSpec, lengths: TaskLengths, max_context: int) -> str:
    room = max_context - spec.max_new_tokens
    long = sum(length > room for length in lengths.prompts)
    if not long:
        return ""
    return (
        f"{long} of {len(lengths.prompts)} prompts of {spec.task} do not fit the base: the longest has"
        f" {max(lengths.prompts)} tokens, and its context of {max_context} leaves {room} beside"
        f" max_new_tokens {spec.max_new_tokens}"
    )


def _of_answers(spec: JobSpec, lengths: TaskLengths) -> str:
    long = sum(length > spec.max_new_tokens for length in lengths.references)
    if not spec.is_sampled or 2 * long < max(1, len(lengths.references)):
        return ""
    return (
        f"{long} of {len(lengths.references)} reference answers of {spec.task} are longer than max_new_tokens"
        f" {spec.max_new_tokens}, the longest has {max(lengths.references)} tokens: samples are cut off"
        " before such an answer ends"
    )
