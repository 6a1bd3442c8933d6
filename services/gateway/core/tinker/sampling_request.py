"""``asample``: its body, and the request to the engine.

Impossible requests are refused before they are queued.
"""

from dataclasses import dataclass

import msgspec

from mint_common.bounds import check_between, check_positive
from mint_common.errors import InvalidField
from mint_common.generation import Sampling
from mint_common.inference.fields import MAX_ALTERNATIVES, MAX_STOPS
from services.gateway.core.tinker.passes import JsonModelInput

MAX_SAMPLES = 128
MAX_SEQ_ID = 2**63 - 1
"""Maximum sequence number of a sample. Clones of a sampler count in blocks of a billion, so it exceeds a
training run's.
"""


class Params(msgspec.Struct, frozen=True):
    """Sampling parameters. ``stop`` None ends at the base's end-of-sequence token; empty never ends early."""

    max_tokens: int | None = None
    seed: int | None = None
    stop: str | tuple[str | int, ...] | None = None
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0


class SampleBody(msgspec.Struct, frozen=True):
    """The body; fields of newer clients that are not listed are ignored."""

    prompt: JsonModelInput
    sampling_params: Params
    sampling_session_id: str | None = None
    seq_id: int | None = None
    num_samples: int = 1
    prompt_logprobs: bool | None = None
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    prompt_logprobs_last_n: int | None = None
    target_prompt_logprobs: object = None
    prompt_alt_tokens_k: int = 0
    record_stability_info: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePlan:
    """One checked sample: the request to the engine, and the form of the answer.

    ``copies`` of what the engine samples are returned: greedy samples are all equal, so it makes one.
    ``is_prompt_scored``: the prompt's own log-probabilities are wanted, those of its last ``scored`` tokens.
    """

    sampling_session_id: str
    seq_id: int
    tokens: tuple[int, ...]
    sampling: Sampling
    copies: int
    prompt_logprobs: int | None
    is_prompt_scored: bool
    scored: int

    @property
    def samples(self) -> int:
        """Return how many sequences the answer has."""
        return self.sampling.n * self.copies


def sampling_session_of(body: SampleBody) -> str:
    """Return the requested sampling session. Raises InvalidField."""
    if body.sampling_session_id is None:
        raise InvalidField(field="sampling_session_id", problem="is needed: create a sampling session first")
    return body.sampling_session_id


def plan_sample(body: SampleBody, *, max_context: int, vocab_size: int, max_completions: int) -> SamplePlan:
    """Check a request against a base's limits. Raises InvalidField naming the first field that is wrong."""
    _check_supported(body)
    tokens = _prompt_tokens(body.prompt, vocab_size)
    if body.seq_id is None:
        raise InvalidField(field="seq_id", problem="is needed")
    check_between("seq_id", body.seq_id, 0, MAX_SEQ_ID)
    check_between("num_samples", body.num_samples, 1, min(MAX_SAMPLES, max_completions))
    check_between("topk_sample_logprobs", body.topk_sample_logprobs, 0, MAX_ALTERNATIVES)
    check_between("topk_prompt_logprobs", body.topk_prompt_logprobs, 0, MAX_ALTERNATIVES)
    is_greedy = body.sampling_params.temperature == 0
    is_prompt_scored = bool(body.prompt_logprobs)
    return SamplePlan(
        sampling_session_id=sampling_session_of(body),
        seq_id=body.seq_id,
        tokens=tokens,
        sampling=_sampling(body, prompt=len(tokens), max_context=max_context, vocab_size=vocab_size),
        copies=body.num_samples if is_greedy else 1,
        prompt_logprobs=body.topk_prompt_logprobs if is_prompt_scored or body.topk_prompt_logprobs else None,
        is_prompt_scored=is_prompt_scored,
        scored=_scored(body, len(tokens)),
    )


def _check_supported(body: SampleBody) -> None:
    asked = {
        "target_prompt_logprobs": body.target_prompt_logprobs is not None,
        "prompt_alt_tokens_k": body.prompt_alt_tokens_k != 0,
        "record_stability_info": bool(body.record_stability_info),
    }
    for field, is_asked in asked.items():
        if is_asked:
            raise InvalidField(field=field, problem="is not supported here: leave it out")


def _prompt_tokens(prompt: JsonModelInput, vocab_size: int) -> tuple[int, ...]:
    tokens: list[int] = []
    for at, chunk in enumerate(prompt.chunks):
        if chunk.type != "encoded_text" or chunk.tokens is None:
            problem = f"only chunks of type 'encoded_text' with tokens are supported, got {chunk.type[:50]!r}"
            raise InvalidField(field=f"prompt.chunks[{at}]", problem=problem)
        tokens += chunk.tokens
    if not tokens:
        raise InvalidField(field="prompt", problem="has no tokens")
    strange = next((token for token in tokens if not 0 <= token < vocab_size), None)
    if strange is not None:
        problem = f"token {strange} is outside the vocabulary of {vocab_size}"
        raise InvalidField(field="prompt", problem=problem)
    return tuple(tokens)


def _sampling(body: SampleBody, *, prompt: int, max_context: int, vocab_size: int) -> Sampling:
    params = body.sampling_params
    check_between("sampling_params.temperature", params.temperature, 0, 2)
    check_positive("sampling_params.top_p", params.top_p, 1)
    check_between("sampling_params.top_k", params.top_k, -1, 2**31 - 1)
    if params.seed is not None:
        check_between("sampling_params.seed", params.seed, 0, 2**63 - 1 - MAX_SAMPLES)
    stop, stop_tokens = _stops(params.stop, vocab_size)
    return Sampling(
        max_new_tokens=_room(params.max_tokens, prompt=prompt, max_context=max_context),
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=max(params.top_k, 0),
        seed=params.seed,
        n=1 if params.temperature == 0 else body.num_samples,
        stop=stop,
        stop_tokens=stop_tokens,
        ignore_eos=params.stop == (),
        logprobs=body.topk_sample_logprobs,
    )


def _room(wanted: int | None, *, prompt: int, max_context: int) -> int:
    room = max_context - prompt
    if room < 1:
        problem = f"has {prompt} tokens, which leave no room in the context of {max_context}"
        raise InvalidField(field="prompt", problem=problem)
    if wanted is None:
        return room
    if not 1 <= wanted <= room:
        problem = f"must be from 1 to {room}: the context has {max_context} tokens and the prompt {prompt}"
        raise InvalidField(field="sampling_params.max_tokens", problem=f"{problem}, got {wanted}")
    return wanted


def _stops(
    stop: str | tuple[str | int, ...] | None, vocab_size: int
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    stops = (stop,) if isinstance(stop, str) else stop or ()
    texts = tuple(each for each in stops if isinstance(each, str))
    tokens = tuple(each for each in stops if isinstance(each, int))
    field = "sampling_params.stop"
    if texts and tokens:
        raise InvalidField(field=field, problem="must hold strings or token ids, not both")
    if len(stops) > MAX_STOPS or not all(texts):
        raise InvalidField(field=field, problem=f"must be at most {MAX_STOPS} items, none an empty string")
    if not all(0 <= token < vocab_size for token in tokens):
        raise InvalidField(field=field, problem=f"a token is outside the vocabulary of {vocab_size}")
    return texts, tokens


def _scored(body: SampleBody, prompt: int) -> int:
    """Return the number of scored tokens at the prompt's end: all but the first, or fewer."""
    last = body.prompt_logprobs_last_n
    if last is None:
        return prompt - 1
    if not body.prompt_logprobs:
        raise InvalidField(field="prompt_logprobs_last_n", problem="needs 'prompt_logprobs': true")
    check_between("prompt_logprobs_last_n", last, 1, max(prompt - 1, 1))
    return min(last, prompt - 1)
