"""Checks of a generation request before the engine gets it; each failure names its field."""

from dataclasses import dataclass

from mint_common.claims import RevisionRef
from mint_common.errors import InvalidField
from mint_common.generation import SampleRequest, Sampling
from mint_common.ids import is_digest
from mint_common.inference.fields import MAX_STOPS


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The engine's limits. ``max_context`` counts prompt and new tokens together.

    ``no_routes``: the reason why it cannot return routes; empty: it can, or there are none.
    ``no_processed``: the reason why it has no processed log-probabilities; empty: it has them.
    """

    max_context: int
    vocab_size: int
    max_completions: int
    max_logprobs: int
    no_routes: str = ""
    no_processed: str = ""


def check_sample(request: SampleRequest, limits: Limits) -> None:
    """Check a whole sample request. Raises InvalidField."""
    if not request.request_id:
        raise InvalidField(field="request_id", problem="must not be empty")
    if request.revision is not None:
        check_revision(request.revision)
    check_sampling(request.sampling, limits)
    wanted = request.prompt_logprobs
    if wanted is not None and not 0 <= wanted <= limits.max_logprobs:
        problem = f"must be from 0 to {limits.max_logprobs}, found {wanted!r}"
        raise InvalidField(field="prompt_logprobs", problem=problem)
    if request.routes and limits.no_routes:
        raise InvalidField(field="routes", problem=f"are not available: {limits.no_routes}")
    if request.logprobs_mode == "processed":
        if limits.no_processed:
            raise InvalidField(field="logprobs_mode", problem=f"must be raw: {limits.no_processed}")
        if request.sampling.top_k > 0 or request.sampling.top_p < 1.0:
            raise InvalidField(field="logprobs_mode", problem="must be raw where top_k or top_p is on")
    limit = request.sampling.max_new_tokens
    check_tokens(request.tokens, field="tokens", max_new_tokens=limit, limits=limits)


def check_revision(revision: RevisionRef) -> None:
    """Check the digest's shape: it becomes a folder name. Raises InvalidField."""
    if not is_digest(revision.digest):
        raise InvalidField(field="revision.digest", problem="must be sha256:<64 hex digits>")


def check_characters(size: int, *, field: str, max_context: int) -> None:
    """Check that a text is of a size worth tokenizing. Raises InvalidField."""
    bound = max_context * _MAX_CHARACTERS_PER_TOKEN
    if size > bound:
        raise InvalidField(field=field, problem=f"has {size} characters; at most {bound} can fit")


_MAX_CHARACTERS_PER_TOKEN = 128
"""Generous: no prompt that fits is refused, and none that can't fit costs a long tokenization."""


def check_sampling(sampling: Sampling, limits: Limits) -> None:
    """Check every sampling number. Raises InvalidField naming it."""
    s = sampling
    rules = (
        ("max_new_tokens", s.max_new_tokens >= 1, "must be at least 1"),
        ("temperature", 0.0 <= s.temperature <= 2.0, "must be from 0 to 2"),  # vLLM takes no more
        ("top_p", 0.0 < s.top_p <= 1.0, "must be above 0 and at most 1"),
        ("top_k", s.top_k >= 0, "must be 0 (off) or more"),
        ("seed", s.seed is None or 0 <= s.seed < 2**63, "must be from 0 to 2**63 - 1"),
        ("n", 1 <= s.n <= limits.max_completions, f"must be from 1 to {limits.max_completions}"),
        ("n", s.n == 1 or s.temperature > 0, "greedy completions are all equal: ask for 1"),
        ("stop", all(s.stop), "must not hold an empty string"),
        ("stop", len(s.stop) <= MAX_STOPS, f"must hold at most {MAX_STOPS} strings"),
        ("stop_tokens", len(s.stop_tokens) <= MAX_STOPS, f"must hold at most {MAX_STOPS} tokens"),
        (
            "stop_tokens",
            all(0 <= token < limits.vocab_size for token in s.stop_tokens),
            f"must be tokens of the vocabulary of {limits.vocab_size}",
        ),
        (
            "logprobs",
            s.logprobs is None or 0 <= s.logprobs <= limits.max_logprobs,
            f"must be from 0 to {limits.max_logprobs}",
        ),
    )
    for name, holds, problem in rules:
        if not holds:
            found = getattr(s, name)
            raise InvalidField(field=f"sampling.{name}", problem=f"{problem}, found {found!r}")


def check_n(n: int, limits: Limits) -> None:
    """Check the number of completions per prompt. Raises InvalidField."""
    if not 1 <= n <= limits.max_completions:
        problem = f"must be from 1 to {limits.max_completions}, found {n}"
        raise InvalidField(field="n", problem=problem)


def check_tokens(tokens: tuple[int, ...], *, field: str, max_new_tokens: int, limits: Limits) -> None:
    """Check a tokenized prompt against the base. ``field`` is the user's field. Raises InvalidField."""
    if not tokens:
        raise InvalidField(field=field, problem="the prompt has no tokens")
    strange = next((token for token in tokens if not 0 <= token < limits.vocab_size), None)
    if strange is not None:
        problem = f"token {strange} is outside the vocabulary of {limits.vocab_size}"
        raise InvalidField(field=field, problem=problem)
    if len(tokens) + max_new_tokens > limits.max_context:
        problem = (
            f"{len(tokens)} prompt tokens and {max_new_tokens} new ones exceed the context of "
            f"{limits.max_context}"
        )
        over = len(tokens) >= limits.max_context
        raise InvalidField(field=field if over else "sampling.max_new_tokens", problem=problem)
