"""Lengths of a task's prompts and reference answers, in tokens of a base."""

import asyncio

from mint_common.ids import BaseName, TenantId
from services.rollout.adapters.engine_sampler import EngineSampler
from services.rollout.core.job_warnings import TaskLengths
from services.rollout.core.task import derive_seed
from services.rollout.ports import Tasks

CALLERS = TenantId("")
"""Tenant that draws and scores over HTTP are counted for, all together."""


async def token_lengths(
    tasks: Tasks, sampler: EngineSampler, task: str, *, base: BaseName, n: int, seed: int
) -> TaskLengths:
    """Measure ``n`` prompts that a job with this seed begins with. Raises what tasks and engines raise."""
    prompts = await tasks.draw(task, "train", n, derive_seed(seed, "prompts", 1), tenant_id=CALLERS)
    texts = [prompt.text for prompt in prompts]
    answers = [prompt.reference for prompt in prompts if prompt.reference]
    start, *counted = await asyncio.gather(*(sampler.tokenize(base, text) for text in ("", *texts, *answers)))
    return TaskLengths(
        prompts=tuple(map(len, counted[: len(texts)])),
        references=tuple(len(tokens) - len(start) + 1 for tokens in counted[len(texts) :]),
    )
