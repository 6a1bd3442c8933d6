"""What the simulation is told: the speed of an engine, its limits, and the requests."""

from collections.abc import Callable
from dataclasses import dataclass, field

from mint_common.ids import Digest, TenantId

TOKEN_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One engine: sizes, limits and speeds. The defaults are 30B-A3B at rank 1, packed, on four GPUs.

    ``token_seconds`` is one step with few sequences; a step grows with the sequences that run.
    ``prompt_token_seconds`` is added to ``prefill_seconds`` for each token of a prompt that is not among the
    ``kv_tokens`` of the prefix cache.
    """

    slots: int = 64
    host: int = 369
    host_bytes: int = 1 << 40
    disk: int = 4096
    sequences: int = 64
    adapter_bytes: int = 105_500_000
    fetch_bytes_per_second: float = 1e9
    layout_seconds: float = 0.030
    activate_seconds: float = 0.005
    token_seconds: float = 0.008
    prefill_seconds: float = 0.3
    prompt_token_seconds: float = 0.0
    kv_tokens: int = 0
    queue_depth: int = 256
    tenant_depth: int = 128
    load_workers: int = 2
    queue_wait_seconds: float = 60.0
    drain_seconds: float = 0.5
    stall_share: float = 0.1
    stall_burst_ms: float = 2.0


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """One request and what became of it; times are seconds, None what has not happened.

    ``prompt`` has four bytes a token, of which ``cached_tokens`` were in the engine's prefix cache; ``then``
    is called once it is answered.
    """

    tenant_id: TenantId
    digest: Digest
    tokens: int
    at: float
    found: str = ""
    tried: list[str] = field(default_factory=list)
    first_at: float | None = None
    done_at: float | None = None
    refused: bool = False
    retries: int = 0
    prompt: bytes = b""
    cached_tokens: int = 0
    then: Callable[["Request"], None] | None = None

    @property
    def prompt_tokens(self) -> int:
        """Return the length of the prompt."""
        return len(self.prompt) // TOKEN_BYTES

    @property
    def first_seconds(self) -> float:
        """Return the time to the first token."""
        assert self.first_at is not None
        return self.first_at - self.at
