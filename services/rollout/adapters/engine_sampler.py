"""The sampler port on the engines that the loaders own."""

from contextlib import aclosing
from dataclasses import dataclass, field

from mint_common.client.directory import EngineDirectory
from mint_common.errors import Unavailable
from mint_common.generation import Delta, Finished, GenerationRequest, Sampling, Started
from mint_common.ids import BaseName
from services.rollout.core.sampling import Completion, GroupRequest, SampledGroup


@dataclass(slots=True)
class _Draft:
    """A completion while it streams."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    routes: bytes = b""


class EngineSampler:
    """Samples without top-k and top-p, so that the log-probabilities are those of the policy itself."""

    def __init__(self, engines: EngineDirectory) -> None:
        self._engines = engines

    async def sample(self, request: GroupRequest) -> SampledGroup:
        """Return the completions of one prompt."""
        started: Started | None = None
        drafts = [_Draft() for _ in range(request.n)]
        async with aclosing(self._engines.generate(request.base, _generation(request))) as chunks:
            async for chunk in chunks:
                if isinstance(chunk, Started):
                    started = chunk
                elif isinstance(chunk, Delta):
                    draft = drafts[chunk.index]
                    draft.text += chunk.text
                    draft.tokens += chunk.tokens
                    draft.logprobs += chunk.logprobs
                elif isinstance(chunk, Finished) and chunk.reason == "abort":
                    raise Unavailable(what="an engine", problem=f"it aborted completion {chunk.index}")
                elif isinstance(chunk, Finished):
                    drafts[chunk.index].routes = chunk.routes
        if started is None:
            raise Unavailable(what="an engine", problem="its stream did not say which revision answers")
        return SampledGroup(
            revision=started.revision,
            prompt_tokens=started.prompt_tokens,
            completions=tuple(_completion(draft) for draft in drafts),
        )

    async def tokenize(self, base: BaseName, text: str) -> tuple[int, ...]:
        """Return the token ids of a text."""
        return await (await self._engines.find(base)).tokenize(text=text)

    async def stop_token(self, base: BaseName) -> int:
        """Return the id of the base's end token."""
        return (await self._engines.describe(base)).eos_token_id


def _generation(request: GroupRequest) -> GenerationRequest:
    return GenerationRequest(
        request_id=request.request_id,
        tenant_id=request.tenant_id,
        revision=request.revision,
        text=request.prompt,
        sampling=Sampling(
            max_new_tokens=request.max_new_tokens,
            temperature=request.temperature,
            seed=request.seed,
            n=request.n,
            logprobs=0,
            whole=True,
            routes=request.routes,
        ),
    )


def _completion(draft: _Draft) -> Completion:
    if len(draft.tokens) != len(draft.logprobs) or not draft.tokens:
        problem = f"{len(draft.tokens)} tokens came with {len(draft.logprobs)} log-probabilities"
        raise Unavailable(what="an engine", problem=problem)
    return Completion(
        text=draft.text, tokens=tuple(draft.tokens), logprobs=tuple(draft.logprobs), routes=draft.routes
    )
