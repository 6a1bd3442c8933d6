"""Routes that read their bodies themselves: bounded, before their endpoint, unless that takes `StreamDep`."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Annotated, Any, ClassVar

from fastapi import Depends, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIRouter

from mint_common.runtime.disconnect import ClientGone
from mint_common.runtime.edge_body import check_text, read_body, replayed
from mint_common.runtime.slow_clients import paced

Handler = Callable[[Request], Awaitable[Response]]


async def stream_of(request: Request) -> AsyncIterator[bytes]:
    """Return an unread body. The endpoint limits and checks it."""
    return request.stream()


StreamDep = Annotated[AsyncIterator[bytes], Depends(stream_of)]
"""Says at a route that its endpoint reads the body."""


class BodyRoute(APIRoute):
    """A route of a router made with ``route_class=BodyRoute``, in an application that reads no bodies."""

    max_body_bytes: ClassVar[int] = 16 << 20

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:  # FastAPI's own
        super().__init__(path, endpoint, **options)
        self.streams_body = any(each.call is stream_of for each in dependencies_of(self.dependant))

    def get_route_handler(self) -> Handler:  # type: ignore[override]  # its Coroutine is an Awaitable
        """Read the body before the route's own handler. Raises BodyTooLarge, BodyTooSlow, InvalidField."""
        carry_out = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await carry_out(request if self.streams_body else await self._read(request))

        return handle

    async def _read(self, request: Request) -> Request:
        body = await read_body(paced(request.receive), request.headers, limit=self.max_body_bytes)
        if body is None:
            raise ClientGone
        check_text(body, request.headers)
        return Request(request.scope, replayed(body, request.receive))


def include_routes(router: APIRouter, *others: APIRouter) -> None:
    """Add the routes of other routers as they are, those of the first ones first.

    For routers to which nothing is added: `include_router` makes each route again, which takes milliseconds.
    """
    for other in others:
        router.routes.extend(other.routes)


def dependencies_of(dependant: Dependant) -> Iterator[Dependant]:
    """Yield everything that an endpoint depends on, directly or not."""
    for each in dependant.dependencies:
        yield each
        yield from dependencies_of(each)
