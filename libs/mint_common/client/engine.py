"""Client of one loader's engine, over its internal HTTP."""

from dataclasses import dataclass
from typing import Literal

import msgspec

from mint_common.claims import RevisionRef
from mint_common.client.http import InternalHttp, path_of
from mint_common.client.relayed import Relayed
from mint_common.errors import RemoteError
from mint_common.generation import (
    CALL_HEADER,
    AdapterChange,
    AdapterPlaces,
    AdapterStatus,
    CallFacts,
    EngineInfo,
    EngineReport,
    Place,
    Sampled,
    SampleRequest,
)
from mint_common.ids import Digest, TenantId
from mint_common.inference.operations import ApiOperation

ResidencyChange = Literal["pin", "unpin", "evict"]


class EngineClient:
    """One loader's engine over internal HTTP. Methods raise the loader's own MintErrors, or Unavailable."""

    def __init__(self, http: InternalHttp) -> None:
        self._http = http
        self._read = http.read

    async def describe(self) -> EngineInfo:
        """Return which base the engine has, and its limits."""
        return self._read(await self._http.get("/internal/engine"), EngineInfo)

    async def serve(self, operation: ApiOperation, body: bytes, facts: CallFacts) -> Relayed:
        """Return vLLM's answer to a request of an inference API, once it has begun; who gets it closes it.

        Closing an answer that has not ended aborts the request on the engine.
        """
        headers = {CALL_HEADER: msgspec.json.encode(facts).decode()}
        return await self._http.relay(f"/internal/serve/{operation}", body, headers)

    async def sample(self, request: SampleRequest) -> Sampled:
        """Return whole completions. Cancelling aborts the request on the engine."""
        body = msgspec.msgpack.encode(request)
        return self._http.unpack(await self._http.exchange("POST", "/internal/sample", body), Sampled)

    async def tokenize(
        self,
        text: str,
        *,
        tenant_id: TenantId | None = None,
    ) -> tuple[int, ...]:
        """Return the token ids of a text. Tenants take turns; requests of none are one more."""
        body = {"text": text, "tenant_id": tenant_id}
        return self._read(await self._http.post("/internal/tokenize", body, is_long=True), _Tokens).tokens

    async def adapters(
        self, *, tenant_id: TenantId | None = None, limit: int | None = None
    ) -> list[AdapterStatus]:
        """Return the place of each adapter known to the engine, the nearest first.

        With a tenant, only adapters that it has used; the answer reveals nothing of other tenants' use.
        """
        asked = {"tenant_id": tenant_id, "limit": limit}
        return self._read(await self._http.get("/internal/adapters", asked), list[AdapterStatus])

    async def changes(self, *, tenant_id: TenantId) -> list[AdapterChange]:
        """Return the latest changes of a tenant's adapters, the latest first."""
        try:
            answer = await self._http.get("/internal/adapter-changes", {"tenant_id": tenant_id})
        except RemoteError as error:
            if error.remote_code != "not_found":
                raise
            return []  # of a loader without this route
        return self._read(answer, list[AdapterChange])

    async def places(self, *, since: str, limit: int) -> AdapterPlaces:
        """Return the changes of adapters' places since a version, or all places ("": always)."""
        answer = await self._http.get("/internal/adapters", {"limit": limit, "since": since})
        if isinstance(answer, list):  # of a loader that numbers no changes
            statuses = self._read(answer, list[AdapterStatus])
            places: dict[Digest, Place | None] = {
                each.digest: each.tier
                for each in statuses
                if each.readiness == "ready" or each.tier == "stored"
            }
            return AdapterPlaces(version="", whole=True, places=places)
        return self._read(answer, AdapterPlaces)

    async def adapter(self, digest: Digest, *, tenant_id: TenantId | None = None) -> AdapterStatus:
        """Return where one adapter is now; with a tenant, as `adapters`."""
        path = path_of("internal", "adapters", digest)
        return self._read(await self._http.get(path, {"tenant_id": tenant_id}), AdapterStatus)

    async def load(self) -> EngineReport:
        """Return how busy the engine is now."""
        return self._read(await self._http.get("/internal/load"), EngineReport)

    async def change(self, digest: Digest, change: ResidencyChange, *, tenant_id: TenantId) -> AdapterStatus:
        """Pin an adapter that a tenant uses, unpin it, or evict it for the tenant. Idempotent.

        An evicted adapter leaves the engine when no other tenant uses it. Raises NotFound when the tenant
        uses none, and for an eviction PreconditionFailed when the tenant has pinned it or is using it.
        """
        path = path_of("internal", "adapters", digest, change)
        return self._read(await self._http.post(path, params={"tenant_id": tenant_id}), AdapterStatus)

    async def prewarm(self, revision: RevisionRef, *, tenant_id: TenantId) -> AdapterStatus:
        """Load a revision under admission control, and return when it is ready. Idempotent."""
        body = {"revision": revision, "tenant_id": tenant_id}
        return self._read(await self._http.post("/internal/prewarm", body, is_long=True), AdapterStatus)

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tokens:
    tokens: tuple[int, ...]
