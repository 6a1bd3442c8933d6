"""Forwards requests unchanged to the service that owns their objects, and returns its answers.

The registry owns the catalog, rollout jobs, files and evaluation runs.

Invariant: only the names, query and body of a request reach the owner. The path is the route's own; its
parameters are checked and quoted.
"""

from collections.abc import AsyncIterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, Path, Request, Response, Security

from mint_common.authority import Caller
from mint_common.catalog import Scope
from mint_common.client.registry import RegistryClient
from mint_common.client.relayed import Relayed
from mint_common.names import check_segment
from services.gateway.adapters.rollout import RolloutClient
from services.gateway.http.edge.bodies import answered
from services.gateway.http.edge.context import authenticate
from services.gateway.http.mint.context import CatalogDep, ForwardLimits, JobsDep

MINT, OPENAI = "/mint/v1/", "/v1/"
"""Path prefixes of MinT's routes and of OpenAI's."""

PolicyPath = Annotated[str, Path(alias="policy")]
AliasPath = Annotated[str, Path(alias="alias")]
RevisionPath = Annotated[str, Path(alias="revision")]
"""Path parameters of forwarded routes, as the schema shows them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarding:
    """A request for objects of ``owner`` below ``root``; the path there omits ``prefix``."""

    request: Request
    caller: Caller
    owner: RegistryClient | RolloutClient
    limits: ForwardLimits
    root: tuple[str, ...]
    prefix: str = MINT

    @property
    def cause(self) -> str | None:
        """Return the cause that the repeats of a request share, None if it has no repeats."""
        return getattr(self.request.state, "cause", None)

    async def forward(
        self,
        body: bytes | AsyncIterable[bytes] | None = None,
        *,
        query: Sequence[tuple[str, str]] | None = None,
        is_long: bool = False,
        cause: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Return the owner's answer. Raises its errors, Unavailable, NotFound for an invalid name.

        ``body``, ``query`` and ``cause`` replace those of the request; ``headers`` are added. ``is_long``:
        the answer may take long.
        """
        tenant_id = self.caller.tenant_id
        async with AsyncExitStack() as stack:
            if is_long or isinstance(body, AsyncIterable):
                stack.enter_context(self.limits.long.counted(tenant_id))
            else:
                await stack.enter_async_context(self.limits.short.turn(tenant_id))
            status, content = await self.owner.forward(
                self.request.method,
                (*self.root, *self._names()),
                self.caller,
                query=self.request.query_params.multi_items() if query is None else query,
                body=await self.request.body() if body is None else body,
                headers=headers,
                is_long=is_long,
                cause=cause or self.cause,
            )
        return Response(content, status, media_type="application/json" if content else None)

    async def relay(self) -> Response:
        """Return rollout's answer with its media type, which may be a stream's. Raises as `forward`."""
        with self.limits.long.counted(self.caller.tenant_id):
            owner = cast(RolloutClient, self.owner)
            relayed = await owner.call(
                self.request.method, (*self.root, *self._names()), self.caller, await self.request.body()
            )
            try:
                return Response(await relayed.whole(), media_type=relayed.headers["content-type"])
            finally:
                relayed.close()

    async def forward_form(self, stream: AsyncIterable[bytes]) -> Response:
        """Forward a form as a stream."""
        said = self.request.headers
        headers = {name: said[name] for name in ("content-type", "content-length") if name in said}
        return await self.forward(stream, headers=headers)

    async def download(self) -> Relayed:
        """Return stored bytes once they begin to arrive; they are closed with the answer."""
        owner = cast(RolloutClient, self.owner)
        relayed = await owner.download((*self.root, *self._names()), self.caller)
        answered(self.request).callback(relayed.close)
        return relayed

    def _names(self) -> Iterator[str]:
        for part in self.request.scope["route"].path_format.removeprefix(self.prefix).split("/"):
            name = part.strip("{}")
            kind = name.rpartition("_")[2]
            yield part if name == part else check_segment(kind, self.request.path_params[name])


def _catalog(scope: Scope, *, of_tenant: bool = True) -> Any:  # FastAPI's Depends
    """Return the dependency with which a route of this scope forwards requests to the registry."""
    scoped = Security(authenticate, scopes=[scope])

    async def forwarding(
        request: Request, caller: Annotated[Caller, scoped], parts: CatalogDep
    ) -> Forwarding:
        root = ("tenants", caller.tenant_id) if of_tenant else ()
        return Forwarding(
            request=request,
            caller=caller,
            owner=parts.registry,
            limits=parts.limits,
            root=root,
        )

    return Depends(forwarding)


ReadCatalog = Annotated[Forwarding, _catalog("read")]
TrainCatalog = Annotated[Forwarding, _catalog("train")]
AdminCatalog = Annotated[Forwarding, _catalog("admin")]
"""Registry as the caller's tenant sees it, for a route with this scope."""
BasesCatalog = Annotated[Forwarding, _catalog("read", of_tenant=False)]
TenantsCatalog = Annotated[Forwarding, _catalog("operator", of_tenant=False)]
"""Registry across all tenants, for operators."""


def _rollout(scope: Scope, *, prefix: str = MINT, of_tenant: bool = True) -> Any:  # FastAPI's Depends
    """Return the dependency with which a route of this scope forwards requests to rollout."""
    scoped = Security(authenticate, scopes=[scope])

    async def forwarding(request: Request, caller: Annotated[Caller, scoped], parts: JobsDep) -> Forwarding:
        face = ("openai",) if prefix == OPENAI else ()
        return Forwarding(
            request=request,
            caller=caller,
            owner=parts.rollout,
            limits=parts.limits,
            root=("tenants", caller.tenant_id, *face) if of_tenant else (),
            prefix=prefix,
        )

    return Depends(forwarding)


ReadJobs = Annotated[Forwarding, _rollout("read")]
TrainJobs = Annotated[Forwarding, _rollout("train")]
ReadFineTuning = Annotated[Forwarding, _rollout("read", prefix=OPENAI)]
TrainFineTuning = Annotated[Forwarding, _rollout("train", prefix=OPENAI)]
"""Rollout as the caller's tenant sees it, by MinT's routes and by OpenAI's."""
ReadTasks = Annotated[Forwarding, _rollout("read", of_tenant=False)]
TrainTasks = Annotated[Forwarding, _rollout("train", of_tenant=False)]
"""The installed tasks, which all tenants share."""
