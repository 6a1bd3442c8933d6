"""Ports of the loader: an engine, local adapter files, and announcements of residency changes."""

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mint_common.claims import RevisionRef
from mint_common.generation import (
    CacheUse,
    CallFacts,
    Likeliest,
    SampledSequence,
    SampleRequest,
)
from mint_common.ids import Digest, TenantId
from mint_common.inference.operations import ApiOperation
from services.loader.core.disk_cache import StoredAdapter


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedAdapter:
    """Checked adapter files on the local disk.

    ``size_bytes`` is that of the weights' file; ``host_bytes`` the maximum use of host memory.
    """

    digest: Digest
    folder: Path
    rank: int
    size_bytes: int
    host_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedAdapter:
    """An adapter that the engine holds under a number of its own; a number is never used twice."""

    digest: Digest
    number: int
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A part of an activation: how long it held the engine up, and whether it was the last.

    ``waits``: nothing was done, as the adapter that has been counted out of the slot is still in it;
    ``lost``: nothing can be done, as the engine has the adapter no more.
    """

    done: bool
    stall_ms: float
    waits: bool = False
    lost: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeSample:
    """The result of a sample request, as `Sampled`; ``served`` is read from the engine's own request."""

    served: Digest | None
    sequences: tuple[SampledSequence, ...]
    prompt_logprobs: bytes | None
    prompt_likeliest: Likeliest | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiCall(CallFacts):
    """One request of an inference API: the client's bytes, and MinT's data about them."""

    operation: ApiOperation
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiWork:
    """Maximum work of a request: ``n`` completions of each prompt, ``tokens`` in total with their prompts."""

    n: int
    sequences: int
    prompt_tokens: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerHead:
    """The head of an answer. ``served`` is read from the engine's own request; None: no request was made.

    ``ignored`` are the names of the request's fields that nothing read.
    """

    is_stream: bool
    served: str | None
    ignored: Sequence[str] = ()


Admission = Callable[[ApiWork], AbstractAsyncContextManager[LoadedAdapter | None]]
"""Counts a request's work and holds its adapter for the length of the block. Raises Overloaded."""


class Engine(Protocol):
    """The inference engine; safe for concurrent use."""

    async def stage(self, adapter: LoadedAdapter, *, victims: Sequence[int] = ()) -> int:
        """Lay an adapter out in host memory, outside the engine's loop; return its size in bytes.

        ``victims`` are the numbers of displaced adapters, which no request uses: they are gone before the
        engine has the new one. Raises AdapterInvalid, and then nothing of it remains; the engine is
        unaffected.
        """
        ...

    async def activate(
        self, adapter: LoadedAdapter, *, victim: LoadedAdapter | None, slice_ms: float
    ) -> Slice:
        """Copy a staged adapter into a slot for about ``slice_ms``: an empty slot, or the victim's.

        Called again with the same adapter until it is done; one adapter at a time. Raises AdapterInvalid.
        """
        ...

    async def unload(self, number: int) -> None:
        """Free the adapter of a number, which no request uses, in host memory and slot. Idempotent."""
        ...

    async def residents(self) -> Mapping[int, bool]:
        """Return the numbers of the adapters that the engine has, and whether each is in a slot."""
        ...

    async def sample(
        self, request: SampleRequest, *, request_id: str, adapter: LoadedAdapter | None
    ) -> WholeSample:
        """Return whole completions, at an adapter in a slot or at the bare base.

        Prompts of different tenants never share a prefix cache block. Cancelling aborts the request on the
        engine. Raises Unavailable when the engine is dead.
        """
        ...

    def serve(self, call: ApiCall, *, admission: Admission) -> AsyncGenerator[AnswerHead | bytes, None]:
        """Answer a request of an inference API: the head, then the bytes of the body as they come.

        A request that generates is admitted once its prompts are known, and until its last byte. Closing
        aborts what runs on the engine. Raises InvalidField or RequestRefused before the head, and
        NonFiniteOutput or Unavailable at any time.
        """
        ...

    async def tokenize(self, text: str, *, tenant_id: TenantId | None) -> tuple[int, ...]:
        """Return the token ids of a text, the tenants in turn."""
        ...

    def kill(self) -> None:
        """End the engine for good, whatever it is doing; all that waits for it fails then. Idempotent."""
        ...

    @property
    def eos_token_id(self) -> int:
        """Return the token that ends a completion."""
        ...

    @property
    def cache_use(self) -> CacheUse | None:
        """Return the use of the KV cache after the last step; None if the engine does not say."""
        ...

    @property
    def dead(self) -> bool:
        """Return whether the engine has failed for good."""
        ...


class Staging(Protocol):
    """The local disk cache of adapter files."""

    async def stage(self, revision: RevisionRef) -> StagedAdapter:
        """Bring a revision's files to the local disk and check them all against the base. Idempotent.

        Raises AdapterInvalid, AdapterUnreadable, BlobCorrupt, BlobMissing or Unavailable; a failure leaves
        nothing.
        """
        ...

    async def trim(self, *, keep: Collection[Digest]) -> None:
        """Evict the least recently used files beyond the cache's size, never those in ``keep``."""
        ...

    def stored(self) -> Sequence[StoredAdapter]:
        """Return the adapters on disk."""
        ...

    def holds(self, digest: Digest) -> bool:
        """Return whether an adapter is on the disk now."""
        ...

    def size_of(self, digest: Digest) -> int | None:
        """Return the size of an adapter's weights if it is on the disk now."""
        ...
