"""What each tenant has open at the engine, running and waiting, in requests, sequences and tokens.

Invariants: whoever comes new finds room, however much others have open; what one tenant has open is bounded,
and a request that is over the bounds alone is refused for good.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mint_common.errors import InvalidField, Overloaded

_TENANTS_ROOM = 3
"""A tenant opens requests while it has fewer open than so many times what is left: alone 3/4 of all, of two
each 3/7, and what is left is for the next."""
_RETRY_SECONDS = 1
TENANT_SEQUENCES, TENANT_TOKENS = 8192, 4 << 20
"""Completions and tokens that a tenant may have open at once: 128 times what an engine generates at once by
default, of 512 tokens each, which keeps an engine busy and the queue bounded."""
LARGEST_REQUESTS = 8
"""Requests of the largest size that a tenant may have open in any case."""


@dataclass(slots=True, kw_only=True)
class OpenWork:
    """Counts of what is open. ``most_requests`` are all tenants' together, the other bounds a tenant's."""

    most_requests: int
    most_sequences: int
    most_tokens: int
    _requests: Counter[str] = field(default_factory=Counter)
    _sequences: Counter[str] = field(default_factory=Counter)
    _tokens: Counter[str] = field(default_factory=Counter)

    @property
    def requests(self) -> int:
        """Return how many requests are open."""
        return self._requests.total()

    @contextmanager
    def request(self, tenant: str) -> Iterator[None]:
        """Count a request in, and out in the end. Raises Overloaded."""
        left = self.most_requests - self.requests
        if self._requests[tenant] >= _TENANTS_ROOM * left:
            raise _full("your requests", self._requests[tenant])
        with _counted(self._requests, tenant, 1):
            yield

    @contextmanager
    def work(self, tenant: str, *, sequences: int, tokens: int) -> Iterator[None]:
        """Count sequences in with the tokens that they may come to, and out in the end.

        Raises InvalidField of what can never be counted in, and Overloaded.
        """
        _check_alone("completions", sequences, self.most_sequences, lower="n")
        _check_alone("tokens", tokens, self.most_tokens, lower="n or max_tokens")
        if self._sequences[tenant] + sequences > self.most_sequences:
            raise _full("your completions", self._sequences[tenant])
        if self._tokens[tenant] + tokens > self.most_tokens:
            raise _full("your tokens", self._tokens[tenant])
        with _counted(self._sequences, tenant, sequences), _counted(self._tokens, tenant, tokens):
            yield


@contextmanager
def _counted(counter: Counter[str], tenant: str, count: int) -> Iterator[None]:
    counter[tenant] += count
    try:
        yield
    finally:
        counter[tenant] -= count
        if not counter[tenant]:
            del counter[tenant]


def _check_alone(what: str, found: int, most: int, *, lower: str) -> None:
    if found > most:
        problem = f"comes to {found} {what}, of which {most} are allowed: send fewer, or lower {lower}"
        raise InvalidField(field="prompt", problem=problem)


def _full(whose: str, depth: int) -> Overloaded:
    return Overloaded(what=f"the engine's room for {whose}", depth=depth, retry_after_seconds=_RETRY_SECONDS)
