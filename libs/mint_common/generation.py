"""The internal generation protocol: requests of gateway and rollout to a loader, and its answers.

A request of an inference API is forwarded to vLLM's server unchanged. A sample, tokens in and tokens out, is
requested and answered whole, in msgpack, its numbers as raw little-endian bytes: int32 tokens, float32
log-probabilities. Every field is explicit, so that no two services can disagree about a default.
"""

import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Self

import msgspec

from mint_common.claims import RevisionRef
from mint_common.ids import BaseName, Digest, EngineId, TenantId


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling parameters. ``top_k`` 0 and ``top_p`` 1.0 are off; ``temperature`` 0 is greedy.

    ``logprobs`` is the number of alternatives to return for each token besides the chosen one (0: only the
    chosen one's); None returns no log-probabilities. ``seed`` None lets the engine choose.

    A completion ends with the base's end-of-sequence token unless ``ignore_eos``, with one of
    ``stop_tokens``, or when its text contains one of ``stop``; the token that ends it is its last one.
    """

    max_new_tokens: int
    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None


LogprobsMode = Literal["raw", "processed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """Sample whole completions of a tokenized prompt at one revision; ``revision`` None is the bare base.

    Log-probabilities of sampled tokens are always returned. In ``sampling``, ``logprobs`` counts the most
    likely tokens to return for each, and stop strings match special tokens' texts too. ``prompt_logprobs``
    requests those of the prompt's tokens and counts the most likely ones for each; None requests none; these
    are always raw.

    ``logprobs_mode`` selects those of the completions: ``raw`` are the model's own, before temperature,
    top-k and top-p; ``processed`` those of the sampled distribution, at the temperature, and
    allow no top-k and top-p. Greedy sampling has raw ones.

    ``texts`` requests the completions as text, ``routes`` the experts of the tokens; a base
    without experts has none. ``is_background``: interactive requests of every tenant have precedence.
    """

    request_id: str
    tenant_id: TenantId
    revision: RevisionRef | None
    tokens: tuple[int, ...]
    sampling: Sampling
    prompt_logprobs: int | None = None
    logprobs_mode: LogprobsMode = "raw"
    texts: bool = False
    routes: bool = False
    is_background: bool = False


def logprobs_temperature(mode: LogprobsMode, temperature: float) -> float:
    """Return at which temperature log-probabilities of a mode are those of the model: 1.0 is its own."""
    return temperature if mode == "processed" and temperature > 0 else 1.0


class Likeliest(msgspec.Struct, frozen=True):
    """The ``count`` likeliest tokens of each position, as two matrices [positions, count].

    A cell that has no token is token 0 with log-probability -99999.
    """

    count: int
    tokens: bytes
    logprobs: bytes


class SampledSequence(msgspec.Struct, frozen=True):
    """One completion; ``logprobs`` have the requested mode.

    ``text`` is empty unless requested; special tokens are omitted unless stop strings were given. ``routes``,
    empty unless requested, has the experts of every token that the model read, the prompt's and the
    completion's but its last, as in a `Group` and its `Sample`; 65535 where the engine does not know.
    """

    reason: Literal["stop", "length"]
    tokens: bytes
    logprobs: bytes
    likeliest: Likeliest | None
    text: str = ""
    routes: bytes = b""


def int32s(data: bytes) -> tuple[int, ...]:
    """Return the numbers of little-endian int32 bytes."""
    return struct.unpack(f"<{len(data) // 4}i", data)


def float32s(data: bytes) -> tuple[float, ...]:
    """Return the numbers of little-endian float32 bytes."""
    return struct.unpack(f"<{len(data) // 4}f", data)


class Sampled(msgspec.Struct, frozen=True):
    """The answer to a SampleRequest; ``revision`` is what really answered, in the engine's ``dtype``.

    ``prompt_logprobs`` has a NaN for the first token: nothing predicts it.
    """

    engine_id: EngineId
    revision: Digest | None
    sequences: tuple[SampledSequence, ...]
    prompt_logprobs: bytes | None
    prompt_likeliest: Likeliest | None
    dtype: str = ""


CALL_HEADER = "x-mint-call"
"""Header of an inference request from the gateway to a loader: a `CallFacts` in JSON."""
REVISION_HEADER = "x-mint-revision"
"""Header of every answer: the digest of the revision that answers, or ``base:<name>``."""
IGNORED_HEADER = "x-mint-ignored"
"""Header of an answer to a request with fields that no answer depends on: their names."""
ENGINE_HEADER = "x-mint-engine"
TIER_HEADER = "x-mint-tier"
"""Header with the adapter's tier when the request arrived: stored, host or slot; ``base`` without an
adapter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFacts:
    """MinT's part of a request of an inference API, whose body stays as the client sent it.

    ``model`` is the requested name; ``revision`` None is the bare base.
    """

    model: str
    request_id: str
    tenant_id: TenantId
    revision: RevisionRef | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """A loader's engine. ``epoch`` changes at every start; counts are of adapters.

    ``eos_token_id`` is the token that ends a completion; ``routed_layers`` counts layers with experts;
    ``dtype`` is the engine's compute dtype: float32, bfloat16 or float16. ``max_completions`` limits one
    request (n), ``max_requests`` the open ones. ``start_seconds`` is how long its process took to start, 0 if
    its version does not say. With ``has_chat_template`` the base answers chats. Parsers are vLLM's, "": none.
    """

    engine_id: EngineId
    epoch: str
    base: BaseName
    base_digest: Digest
    max_context: int
    vocab_size: int
    eos_token_id: int
    slots: int
    host_capacity: int
    dtype: str
    routed_layers: int = 0
    max_completions: int = 128
    max_requests: int = 512
    start_seconds: float = 0.0
    has_chat_template: bool = True
    tool_parser: str = ""
    reasoning_parser: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """Limits of a request that every known engine of a base accepts: total tokens, and completions."""

    max_context: int
    max_completions: int

    @classmethod
    def of(cls, engines: Collection[EngineInfo]) -> Self:
        """Return the least of some engines' limits."""
        return cls(
            max_context=min(engine.max_context for engine in engines),
            max_completions=min(engine.max_completions for engine in engines),
        )


RESTART_SECONDS = 20
"""Expected duration of an engine's restart."""


Place = Literal["stored", "host", "slot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterPlaces:
    """Places of an engine's adapters at a ``version``.

    ``whole``: all of them, the nearest first; else those that changed since the version asked about, None for
    an adapter that has left.
    """

    version: str
    whole: bool
    places: dict[Digest, Place | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterStatus:
    """Place of one adapter on an engine. ``last_used_at`` is seconds since the epoch, 0 when never used.

    ``readiness`` is ready from host memory on; ``state`` gives the exact state. ``size_bytes`` is its use at
    its place; ``host_bytes`` of that are in host memory, ``slot_bytes`` in a slot as well. ``queue_position``
    is 0 for the next load of the cold queue, None when no load of it waits; ``queued_at``, in seconds since
    the epoch, and ``queued_for`` say since when it waits and for what.
    """

    digest: Digest
    tier: Place
    readiness: Literal["registered", "prewarming", "ready"]
    size_bytes: int
    pinned: bool
    in_flight: int
    last_used_at: float
    load_seconds: float
    queue_position: int | None = None
    state: Literal[
        "registered", "queued", "fetching", "staged", "activating", "ready", "evicted", "failed"
    ] = "registered"
    host_bytes: int = 0
    slot_bytes: int = 0
    queued_at: float | None = None
    queued_for: Literal["request", "prewarm", "prefetch"] | None = None


ChangeKind = Literal["loaded", "evicted", "failed", "non_finite"]
EvictionReason = Literal["room", "asked", "lost"]
"""Reason of an adapter's end on an engine: another one needed its memory, a user asked for it, or the engine
had lost it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterChange:
    """A change of one adapter on an engine at ``at``, in seconds since the epoch.

    ``load_seconds`` and ``size_bytes`` are those of a load, ``problem`` that of a failed one, ``reason`` that
    of an eviction.
    """

    digest: Digest
    change: ChangeKind
    at: float
    size_bytes: int | None = None
    load_seconds: float | None = None
    problem: str | None = None
    reason: EvictionReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """Load of an engine: generating requests, waiting and running loads, used memory and slots."""

    requests: int
    loads_waiting: int
    loads_running: int
    in_slots: int
    in_host: int
    host_bytes: int
    host_bytes_capacity: int


FULL_CACHE = 0.9
"""Share of an engine's KV blocks in use from which new sequences wait or preempt others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUse:
    """Use of an engine's KV cache after its last step: the ``share`` of the blocks in use, from 0 to 1.

    Sequences run or wait for a seat or for blocks. ``preemptions`` counts since the engine's start the
    sequences that lost their blocks to others.
    """

    share: float
    running: int
    waiting: int
    preemptions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport(EngineLoad):
    """Load of an engine as services see it; ``tokens`` are the most that its open requests may come to.

    0 of a version that does not say. ``cache`` is None of an engine that does not say, or before its first
    step.
    """

    tokens: int = 0
    cache: CacheUse | None = None
