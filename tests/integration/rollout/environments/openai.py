"""A stand-in for the package openai: what holds an address."""

from typing import Any


class AsyncOpenAI:
    """A client's address."""

    def __init__(self, *, base_url: str, **_: Any) -> None:
        self.base_url = base_url

    def with_options(self, *, base_url: str) -> "AsyncOpenAI":
        """Return a client at another address."""
        return AsyncOpenAI(base_url=base_url)
