"""Client of rollout, which owns jobs, files and evaluation runs: forwards users' requests."""

from collections.abc import AsyncIterable, Mapping, Sequence

from mint_common.authority import Caller, caller_headers
from mint_common.client.http import InternalHttp, path_of
from mint_common.client.relayed import Relayed
from mint_common.ids import Digest
from services.gateway.adapters.handover import Handover


class RolloutClient:
    """Rollout over internal HTTP. Raises its MintErrors, or Unavailable."""

    def __init__(self, http: InternalHttp, handover: Handover) -> None:
        self._http = http
        self._handover = handover

    async def forward(
        self,
        method: str,
        parts: Sequence[str],
        caller: Caller,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: bytes | AsyncIterable[bytes] = b"",
        headers: Mapping[str, str] | None = None,
        is_long: bool = False,
        cause: str | None = None,
    ) -> tuple[int, bytes]:
        """Forward a caller's request to a path below ``/internal``; see `InternalHttp.forward`."""
        self._handover.check_done()
        sent = {**(headers or {}), **caller_headers(caller, cause)}
        path = path_of("internal", *parts)
        return await self._http.forward(method, path, query=query, body=body, headers=sent, is_long=is_long)

    async def held(self) -> set[Digest]:
        """Return the revisions that open jobs learn from, as teachers."""
        found: set[Digest] = set()
        after = ""
        while page := self._http.read(await self._http.get("/internal/held", {"after": after}), list[Digest]):
            found.update(page)
            after = page[-1]
        return found

    async def call(self, method: str, parts: Sequence[str], caller: Caller, body: bytes) -> Relayed:
        """Send a request, and return the answer once it has begun; the caller closes it."""
        self._handover.check_done()
        path = path_of("internal", *parts)
        return await self._http.relay(path, body, caller_headers(caller, None), method=method)

    async def download(self, parts: Sequence[str], caller: Caller) -> Relayed:
        """Return stored bytes once they begin to arrive; the caller closes them."""
        self._handover.check_done()
        path = path_of("internal", *parts)
        return await self._http.relay(path, b"", caller_headers(caller, None), method="GET")
