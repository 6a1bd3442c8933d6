"""Sample and record a wave: a request for each prompt, with its own seed, all at one revision."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mint_common.algorithms import Algorithm
from mint_common.claims import Claim, RevisionRef
from mint_common.errors import InvalidField, PreconditionFailed
from mint_common.events import WaveCompleted, WaveRequested
from mint_common.generation import LogprobsMode, logprobs_temperature
from mint_common.ids import BaseName, Digest, TenantId, derive_id
from mint_common.records import Group, Prompt, ReplacedGroup, Sample, WaveRecord, reward_mean
from services.rollout.core.task import derive_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRequest:
    """Request ``n`` completions of one prompt at one revision; ``revision`` None is the bare base.

    The prompt is a text, or ``prompt_tokens`` if it is rendered already. ``logprobs_mode`` selects their
    log-probabilities, ``routes`` requests the experts of their tokens. A completion ends with the base's stop
    token or one of ``stop_tokens``, or with the token that completes one of ``stops`` in its text.
    """

    request_id: str
    tenant_id: TenantId
    base: BaseName
    revision: RevisionRef | None
    prompt: str
    n: int
    max_new_tokens: int
    temperature: float
    seed: int
    logprobs_mode: LogprobsMode
    routes: bool
    prompt_tokens: tuple[int, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    stops: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One completion: its token ids, stop token included, with the sampler's own log-probabilities.

    ``routes`` has the experts of the prompt's tokens, then of its own but the last; empty: not recorded. One
    that ends for its ``length`` has no stop token.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    routes: bytes = b""
    reason: Literal["stop", "length"] = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledGroup:
    """The completions of one prompt; ``revision`` and ``dtype`` are those that the engine reports."""

    revision: Digest | None
    prompt_tokens: tuple[int, ...]
    completions: tuple[Completion, ...]
    dtype: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSequence:
    """The log-probability of each token of a sequence; NaN of the first one, which nothing predicts."""

    revision: Digest | None
    logprobs: tuple[float, ...]


def plan_samples(
    wave: WaveRequested,
    algorithm: Algorithm,
    prompts: Sequence[Prompt | tuple[int, ...]],
    *,
    begin: int = 0,
) -> list[GroupRequest]:
    """Return one request for each prompt, given as a task's or as tokens, numbered from ``begin``."""
    spec = wave.spec
    return [
        GroupRequest(
            request_id=derive_id("req", wave.wave_id, index),
            tenant_id=wave.tenant_id,
            base=wave.base,
            revision=wave.revision,
            prompt=prompt.text if isinstance(prompt, Prompt) else "",
            prompt_tokens=() if isinstance(prompt, Prompt) else prompt,
            n=spec.group_size,
            max_new_tokens=spec.max_new_tokens,
            temperature=spec.temperature,
            seed=derive_seed(spec.seed, "sample", wave.step, index),
            logprobs_mode=logprobs_mode(algorithm),
            routes=algorithm.corrects_sampler,
        )
        for index, prompt in enumerate(prompts, begin)
    ]


def logprobs_mode(algorithm: Algorithm) -> LogprobsMode:
    """Return which log-probabilities an algorithm trains on.

    Samples are weighed by the distribution that they were drawn from; a policy is compared with its base as
    both are.
    """
    return "processed" if algorithm.corrects_sampler else "raw"


def check_revision(request: GroupRequest, sampled: SampledGroup | ReadSequence) -> None:
    """Raise PreconditionFailed when the engine used another revision than the requested one."""
    asked = request.revision.digest if request.revision else None
    if sampled.revision != asked:
        raise PreconditionFailed(
            what="the revision that an engine answered with",
            found=sampled.revision or "the base",
            expected=asked or "the base",
        )


def scored_group(sampled: SampledGroup, rewards: Sequence[float]) -> Group:
    """Return the group of one prompt's completions with their rewards, and with the routes of all tokens."""
    length = len(sampled.prompt_tokens)
    token_bytes = max(len(one.routes) // max(1, length + len(one.tokens) - 1) for one in sampled.completions)
    begin = length * token_bytes
    return Group(
        prompt_tokens=sampled.prompt_tokens,
        samples=tuple(
            Sample(
                tokens=done.tokens,
                logprobs=done.logprobs,
                reward=reward,
                text=done.text,
                experts=done.routes[begin:],
            )
            for done, reward in zip(sampled.completions, rewards, strict=True)
        ),
        prompt_experts=_known([done.routes[:begin] for done in sampled.completions], token_bytes),
        sampler_dtype=sampled.dtype,
    )


def _known(prompts: Sequence[bytes], token_bytes: int) -> bytes:
    """Return the routes of a prompt's tokens, each from the first completion that computed it."""
    unknown = b"\xff" * token_bytes
    found = [
        [rows[at : at + token_bytes] for at in range(0, len(rows), token_bytes or 1)] for rows in prompts
    ]
    return b"".join(
        next((row for row in rows if row != unknown), unknown) for rows in zip(*found, strict=True)
    )


def reference_group(
    prompt: Prompt,
    *,
    prompt_tokens: tuple[int, ...],
    answer: tuple[int, ...],
    start: tuple[int, ...],
    stop: int,
    reward: float,
) -> Group:
    """Return the group that holds only the reference answer and the stop token. Raises InvalidField.

    ``start`` are the tokens that the tokenizer puts before every text; the answer continues the prompt, so
    they are removed from it.
    """
    if not prompt.reference:
        raise InvalidField(
            field="spec.algorithm", problem="needs a task whose prompts have reference answers"
        )
    continued = answer[len(start) :] if start and answer[: len(start)] == start else answer
    sample = Sample(tokens=(*continued, stop), logprobs=(), reward=reward, text=prompt.reference)
    return Group(prompt_tokens=prompt_tokens, samples=(sample,))


def record_of(
    wave: WaveRequested,
    mode: LogprobsMode,
    groups: Sequence[Group],
    *,
    replaced: Sequence[ReplacedGroup] = (),
) -> WaveRecord:
    """Return the record of a wave; `check_revision` has passed for each of its samples.

    ``mode`` is that of their log-probabilities.
    """
    digest = wave.revision.digest if wave.revision else None
    temperature = logprobs_temperature(mode, wave.spec.temperature)
    return WaveRecord(
        wave_id=wave.wave_id,
        revision=digest,
        groups=tuple(groups),
        logprobs_temperature=temperature,
        replaced=tuple(replaced),
    )


def completed(
    wave: WaveRequested, record: WaveRecord, claim: Claim, *, validation: Claim | None = None
) -> WaveCompleted:
    """Return the event of a recorded wave; ``validation`` claims what its revision is measured on."""
    return WaveCompleted(
        tenant_id=wave.tenant_id,
        base=wave.base,
        wave_id=wave.wave_id,
        job_id=wave.job_id,
        policy_id=wave.policy_id,
        step=wave.step,
        revision=wave.revision,
        record=claim,
        validation=validation,
        reward_mean=reward_mean(record),
        lora=wave.lora,
        spec=wave.spec,
    )
