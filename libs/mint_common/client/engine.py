"""Clients of the loaders: one engine, and the directory that finds the engines of a base.

Invariants: a stream either ends with every completion finished or raises a MintError; a loader that stops
answering is asked again before anything is routed to it.
"""

import hashlib
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from mint_common.claims import RevisionRef
from mint_common.client.http import InternalHttp, error_from_payload, path_of
from mint_common.errors import Unavailable
from mint_common.generation import (
    AdapterStatus,
    ChatMessage,
    EngineInfo,
    Failed,
    Finished,
    GenerationChunk,
    GenerationRequest,
)
from mint_common.ids import BaseName, Digest, TenantId

T = TypeVar("T")

_REASK_SECONDS = 2.0


class EngineClient:
    """One loader's engine over internal HTTP. Methods raise the loader's own MintErrors, or Unavailable."""

    def __init__(self, http: InternalHttp, *, name: str = "the loader") -> None:
        self._http = http
        self.name = name

    async def describe(self) -> EngineInfo:
        """Return which base the engine has, and its limits."""
        return self._read(await self._http.get("/internal/engine"), EngineInfo)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """Yield Started, then Delta and Finished chunks until all ``n`` completions are finished.

        A Failed chunk is raised as the error that it carries; Unavailable when the stream ends early. Closing
        the iterator aborts the request on the engine.
        """
        unfinished = request.sampling.n
        async with aclosing(self._http.stream_lines("/internal/generate", request)) as lines:
            async for line in lines:
                chunk = self._decode(line)
                if isinstance(chunk, Failed):
                    raise error_from_payload(chunk.error)
                if isinstance(chunk, Finished):
                    unfinished -= 1
                yield chunk
        if unfinished:
            raise Unavailable(what=self.name, problem=f"its stream ended with {unfinished} completions open")

    async def tokenize(
        self, *, text: str | None = None, messages: Sequence[ChatMessage] | None = None
    ) -> tuple[int, ...]:
        """Return the token ids of a text, or of a conversation under the base's chat template."""
        given = {"text": text, "messages": messages}
        body = {name: value for name, value in given.items() if value is not None}
        return self._read(await self._http.post("/internal/tokenize", body), _Tokens).tokens

    async def adapters(self) -> list[AdapterStatus]:
        """Return where each adapter known to the engine is now."""
        return self._read(await self._http.get("/internal/adapters"), list[AdapterStatus])

    async def pin(self, digest: Digest) -> AdapterStatus:
        """Keep a resident adapter from eviction. Idempotent. Raises NotFound when it is not resident."""
        return await self._change(digest, "pin")

    async def unpin(self, digest: Digest) -> AdapterStatus:
        """Allow eviction again. Idempotent. Raises NotFound when it is not resident."""
        return await self._change(digest, "unpin")

    async def evict(self, digest: Digest) -> AdapterStatus:
        """Take an idle adapter off the engine. Raises PreconditionFailed when it is pinned or in use."""
        return await self._change(digest, "evict")

    async def prewarm(self, revision: RevisionRef, *, tenant_id: TenantId) -> AdapterStatus:
        """Load a revision under admission control, and return when it is ready. Idempotent."""
        body = {"revision": revision, "tenant_id": tenant_id}
        return self._read(await self._http.post("/internal/prewarm", body), AdapterStatus)

    async def _change(self, digest: Digest, verb: str) -> AdapterStatus:
        answer = await self._http.post(path_of("internal", "adapters", digest, verb))
        return self._read(answer, AdapterStatus)

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.close()

    def _read(self, answer: object, shape: type[T]) -> T:
        try:
            return msgspec.convert(answer, type=shape)
        except msgspec.ValidationError as error:
            raise Unavailable(what=self.name, problem=f"unreadable answer: {error}") from error

    def _decode(self, line: bytes) -> GenerationChunk:
        try:
            return _CHUNKS.decode(line)
        except msgspec.DecodeError as error:
            raise Unavailable(what=self.name, problem=f"unreadable chunk: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tokens:
    tokens: tuple[int, ...]


_CHUNKS: msgspec.json.Decoder[GenerationChunk] = msgspec.json.Decoder(GenerationChunk)


class EngineDirectory:
    """The engines behind a fixed list of loaders, found by base.

    Descriptions are cached. After an Unavailable call ``forget`` (``generate`` does): a loader that is not
    known is asked again at most every two seconds, or at once when no other engine serves the base.
    """

    def __init__(self, urls: Sequence[str], *, token: str, timeout_seconds: float = 30.0) -> None:
        self._clients = {
            url: EngineClient(
                InternalHttp(url, token=token, timeout_seconds=timeout_seconds), name=f"loader {url}"
            )
            for url in urls
        }
        self._known: dict[str, EngineInfo] = {}
        self._asked_at = -_REASK_SECONDS

    def clients(self) -> list[EngineClient]:
        """Return a client of every loader, whether or not it answers."""
        return list(self._clients.values())

    async def engines(self) -> list[EngineInfo]:
        """Return every engine that answers now or did when last asked."""
        await self._ask_unknown()
        return [self._known[url] for url in self._clients if url in self._known]

    async def describe(self, base: BaseName) -> EngineInfo:
        """Return the description of one engine of a base. Raises Unavailable."""
        return self._known[await self._url_of(base, "")]

    async def find(self, base: BaseName, *, digest: Digest | None = None) -> EngineClient:
        """Return an engine of a base; the same one for the same digest while the set of engines stands.

        Raises Unavailable when none answers.
        """
        return self._clients[await self._url_of(base, digest or "")]

    async def generate(
        self, base: BaseName, request: GenerationRequest
    ) -> AsyncGenerator[GenerationChunk, None]:
        """Generate on an engine of the base; as `EngineClient.generate`."""
        digest = request.revision.digest if request.revision else None
        client = await self.find(base, digest=digest)
        try:
            async with aclosing(client.generate(request)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except Unavailable:
            self.forget(client)
            raise

    def forget(self, client: EngineClient) -> None:
        """Drop what is known of an engine; it is described anew before it is used again."""
        for url, known in self._clients.items():
            if known is client:
                self._known.pop(url, None)

    async def aclose(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            await client.aclose()

    async def _url_of(self, base: BaseName, key: str) -> str:
        if not self._serving(base) or time.monotonic() - self._asked_at >= _REASK_SECONDS:
            await self._ask_unknown()
        urls = self._serving(base)
        if not urls:
            raise Unavailable(what=f"an engine of base {base}", problem="no loader that answers serves it")
        return max(urls, key=lambda url: _weight(url, key))

    def _serving(self, base: BaseName) -> list[str]:
        return [url for url, info in self._known.items() if info.base == base]

    async def _ask_unknown(self) -> None:
        self._asked_at = time.monotonic()
        for url, client in self._clients.items():
            if url not in self._known:
                try:
                    self._known[url] = await client.describe()
                except Unavailable:
                    continue


def _weight(url: str, key: str) -> bytes:
    """Rendezvous hashing: each key ranks the engines in its own order."""
    return hashlib.sha256(f"{url}\n{key}".encode()).digest()
