"""Samples of the engines that the loaders own: for jobs and evaluations, in the background."""

from dataclasses import replace

from mint_common.client.directory import EngineDirectory
from mint_common.errors import EngineFailed
from mint_common.generation import CacheUse, SampledSequence, SampleRequest, Sampling, float32s, int32s
from mint_common.ids import BaseName, EngineId, TenantId
from services.rollout.core.sampling import Completion, GroupRequest, ReadSequence, SampledGroup


class EngineSampler:
    """Samples without top-k and top-p, so that the log-probabilities are those of the policy itself.

    Raises Overloaded and Unavailable, which are retryable, and other MintErrors. Cancelling aborts the
    request on the engine.
    """

    def __init__(self, engines: EngineDirectory) -> None:
        self._engines = engines

    async def sample(self, request: GroupRequest) -> SampledGroup:
        """Return the completions of one prompt."""
        prompt = request.prompt_tokens or await self._tokenize(
            request.base, request.prompt, tenant_id=request.tenant_id
        )
        sampled = await self._engines.sample(request.base, _sample_request(request, prompt))
        return SampledGroup(
            revision=sampled.revision,
            prompt_tokens=prompt,
            completions=tuple(_completion(sequence) for sequence in sampled.sequences),
            dtype=sampled.dtype,
        )

    async def read(self, request: GroupRequest) -> ReadSequence:
        """Return the log-probabilities of the prompt's own tokens, which must leave room for one more."""
        asked = replace(_sample_request(request, request.prompt_tokens), prompt_logprobs=0)
        found = await self._engines.sample(request.base, asked)
        logprobs = float32s(found.prompt_logprobs or b"")
        if len(logprobs) != len(asked.tokens):
            problem = f"{len(asked.tokens)} tokens came with {len(logprobs)} log-probabilities"
            raise EngineFailed(problem=problem)
        return ReadSequence(revision=found.revision, logprobs=logprobs)

    def cache_uses(self, base: BaseName) -> dict[EngineId, CacheUse | None]:
        """Return the use of the KV cache of each engine of a base, as it said last."""
        return self._engines.cache_uses(base)

    async def tokenize(self, base: BaseName, text: str) -> tuple[int, ...]:
        """Return the token ids of a text, with the tokens that the tokenizer puts before every text."""
        return await self._tokenize(base, text, tenant_id=None)

    async def _tokenize(self, base: BaseName, text: str, *, tenant_id: TenantId | None) -> tuple[int, ...]:
        return await (await self._engines.find(base)).tokenize(text, tenant_id=tenant_id)

    async def stop_token(self, base: BaseName) -> int:
        """Return the id of the base's end token."""
        return (await self._engines.describe(base)).eos_token_id

    async def max_context(self, base: BaseName) -> int:
        """Return the longest sequence, in tokens."""
        return (await self._engines.describe(base)).max_context


def _sample_request(request: GroupRequest, prompt: tuple[int, ...]) -> SampleRequest:
    return SampleRequest(
        request_id=request.request_id,
        tenant_id=request.tenant_id,
        revision=request.revision,
        tokens=prompt,
        sampling=Sampling(
            max_new_tokens=request.max_new_tokens,
            temperature=request.temperature,
            seed=request.seed,
            n=request.n,
            stop_tokens=request.stop_tokens,
            stop=request.stops,
        ),
        logprobs_mode=request.logprobs_mode,
        texts=True,
        routes=request.routes,
        is_background=True,
    )


def _completion(sequence: SampledSequence) -> Completion:
    tokens, logprobs = int32s(sequence.tokens), float32s(sequence.logprobs)
    if len(tokens) != len(logprobs) or not tokens:
        problem = f"{len(tokens)} tokens came with {len(logprobs)} log-probabilities"
        raise EngineFailed(problem=problem)
    return Completion(
        text=sequence.text,
        tokens=tokens,
        logprobs=logprobs,
        routes=sequence.routes,
        reason=sequence.reason,
    )
