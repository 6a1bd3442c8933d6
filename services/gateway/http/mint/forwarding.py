"""Requests about the catalog: the registry owns it, so they go on to it as they came, and so do its answers.

Invariant: of a request only its names, query and body reach the registry. The path there is the route's own,
and what stands for a parameter in it is checked and quoted.
"""

from collections.abc import AsyncIterable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Path, Request, Response, Security

from mint_common.authority import Caller
from mint_common.catalog import Scope
from mint_common.client.registry import RegistryClient
from mint_common.names import check_segment
from services.gateway.http.edge.context import CatalogLimits, GatewayDep, authenticate

PREFIX = "/mint/v1/"

PolicyPath = Annotated[str, Path(alias="policy")]
AliasPath = Annotated[str, Path(alias="alias")]
RevisionPath = Annotated[str, Path(alias="revision")]
"""What a route has in its path, and says in the schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarding:
    """A request on its way to what the registry keeps below ``root``."""

    request: Request
    caller: Caller
    registry: RegistryClient
    limits: CatalogLimits
    root: tuple[str, ...]

    @property
    def cause(self) -> str | None:
        """Return what the repeats of the request share, None for one that nobody repeats."""
        return getattr(self.request.state, "cause", None)

    async def forward(
        self,
        body: bytes | AsyncIterable[bytes] | None = None,
        *,
        query: Sequence[tuple[str, str]] | None = None,
        patient: bool = False,
    ) -> Response:
        """Return the registry's answer. Raises its errors, Unavailable, NotFound for what is no name.

        ``body`` and ``query`` take the place of the request's own. ``patient``: the answer may take long.
        """
        tenant_id = self.caller.tenant_id
        async with AsyncExitStack() as stack:
            if patient or isinstance(body, AsyncIterable):
                stack.enter_context(self.limits.long.counted(tenant_id))
            else:
                await stack.enter_async_context(self.limits.short.turn(tenant_id))
            status, content = await self.registry.forward(
                self.request.method,
                (*self.root, *self._names()),
                self.caller,
                query=self.request.query_params.multi_items() if query is None else query,
                body=await self.request.body() if body is None else body,
                patient=patient,
                cause=self.cause,
            )
        return Response(content, status, media_type="application/json" if content else None)

    def _names(self) -> Iterator[str]:
        for part in self.request.scope["route"].path_format.removeprefix(PREFIX).split("/"):
            name = part.strip("{}")
            yield part if name == part else check_segment(name, self.request.path_params[name])


def _catalog(scope: Scope, *, of_tenant: bool = True) -> Any:  # FastAPI's Depends
    """Return what a route of this scope depends on to forward its requests."""
    scoped = Security(authenticate, scopes=[scope])

    async def forwarding(
        request: Request, caller: Annotated[Caller, scoped], gateway: GatewayDep
    ) -> Forwarding:
        root = ("tenants", caller.tenant_id) if of_tenant else ()
        return Forwarding(
            request=request,
            caller=caller,
            registry=gateway.registry,
            limits=gateway.catalog_limits,
            root=root,
        )

    return Depends(forwarding)


ReadCatalog = Annotated[Forwarding, _catalog("read")]
TrainCatalog = Annotated[Forwarding, _catalog("train")]
AdminCatalog = Annotated[Forwarding, _catalog("admin")]
"""What the caller's tenant has in the registry, for a route that takes this scope."""
BasesCatalog = Annotated[Forwarding, _catalog("read", of_tenant=False)]
TenantsCatalog = Annotated[Forwarding, _catalog("operator", of_tenant=False)]
"""What the registry has, of whatever tenant."""
