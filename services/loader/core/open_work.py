"""Each tenant's open work at the engine, running and waiting, in requests, sequences and tokens.

Invariants: a newcomer always finds room; one tenant's open work is limited, and a
request that exceeds the limits alone is refused for good.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from mint_common.errors import InvalidField
from mint_common.tenant_budget import TenantBudget

TENANT_SEQUENCES, TENANT_TOKENS = 8192, 4 << 20
"""Completions and tokens that a tenant may have open at once: 128 times what an engine generates at once by
default, of 512 tokens each, which keeps an engine busy and the queue bounded."""
MAX_REQUESTS = 8
"""Requests of the largest size that a tenant may have open in any case."""


class OpenWork:
    """Counts of open work. ``max_requests`` limits all tenants together, the other limits are per tenant."""

    def __init__(self, *, max_requests: int, max_sequences: int, max_tokens: int) -> None:
        room = "the engine's room for your {}".format
        self._requests = TenantBudget(what=room("requests"), total=max_requests)
        self._sequences = TenantBudget(what=room("completions"), limit=max_sequences)
        self._tokens = TenantBudget(what=room("tokens"), limit=max_tokens)

    @property
    def requests(self) -> int:
        """Return how many requests are open."""
        return self._requests.held

    @property
    def tokens(self) -> int:
        """Return how many tokens the open requests may come to, prompts included."""
        return self._tokens.held

    def request(self, tenant: str) -> AbstractContextManager[None]:
        """Count a request in, and out in the end. Raises Overloaded."""
        return self._requests.counted(tenant)

    @contextmanager
    def work(self, tenant: str, *, sequences: int, tokens: int) -> Iterator[None]:
        """Count a request's sequences and maximum tokens while the block runs.

        Raises InvalidField if the request alone exceeds a limit, and Overloaded.
        """
        _check_alone("completions", sequences, self._sequences.limit, lower="n")
        _check_alone("tokens", tokens, self._tokens.limit, lower="n or max_tokens")
        with self._sequences.counted(tenant, sequences), self._tokens.counted(tenant, tokens):
            yield


def _check_alone(what: str, found: int, limit: float, *, lower: str) -> None:
    if found > limit:
        problem = f"comes to {found} {what}, of which {limit} are allowed: send fewer, or lower {lower}"
        raise InvalidField(field="prompt", problem=problem)
