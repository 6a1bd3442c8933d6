"""How long a task's prompts and reference answers are in the tokens of a base."""

import asyncio
from dataclasses import dataclass

from mint_common.ids import BaseName, TenantId
from services.rollout.core.task import derive_seed
from services.rollout.ports import Sampler, Tasks

CALLERS = TenantId("")
"""Tenant that draws and scores over HTTP are counted for, all together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLengths:
    """Tokens of each prompt, and of each reference answer with its stop token, where there is one."""

    prompts: tuple[int, ...]
    references: tuple[int, ...]


async def token_lengths(
    tasks: Tasks, sampler: Sampler, task: str, *, base: BaseName, n: int, seed: int
) -> TokenLengths:
    """Measure ``n`` prompts that a job with this seed begins with. Raises what both ports raise."""
    prompts = await tasks.draw(task, "train", n, derive_seed(seed, "prompts", 1), tenant_id=CALLERS)
    texts = [prompt.text for prompt in prompts]
    answers = [prompt.reference for prompt in prompts if prompt.reference]
    start, *counted = await asyncio.gather(*(sampler.tokenize(base, text) for text in ("", *texts, *answers)))
    return TokenLengths(
        prompts=tuple(map(len, counted[: len(texts)])),
        references=tuple(len(tokens) - len(start) + 1 for tokens in counted[len(texts) :]),
    )
