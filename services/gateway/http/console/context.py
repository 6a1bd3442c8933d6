"""Context of a console page: its visitor, the API with the visitor's key, and the templates."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Response

from mint_common.authority import Caller
from mint_common.errors import NotFound
from services.gateway.http.console.api import ApiAnswer, OwnApi, check_part, path_of
from services.gateway.http.console.rendering import Pages
from services.gateway.http.console.shared import SharedParts
from services.gateway.http.edge.context import EDGE, StatePart, caller_of, key_of, session_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleParts:
    """The pages' templates, and the API that they show. ``address`` of the stack is for shown commands."""

    pages: Pages
    api: OwnApi
    shared: SharedParts
    address: str


CONSOLE: StatePart[ConsoleParts] = StatePart("console")


class Visit:
    """One request of a person for a page."""

    def __init__(self, request: Request, caller: Caller, parts: ConsoleParts) -> None:
        self.request = request
        self.caller = caller
        self._parts = parts
        self._key = key_of(request)

    async def get(self, *path: object, **query: object) -> ApiAnswer:
        """Return what the API answers: ``path`` are the parts of the resource's path."""
        return await self.send("GET", *path, **query)

    async def send(self, method: str, *path: object, body: object = None, **query: object) -> ApiAnswer:
        """Send a request to the API; a part of its path that is no name is answered with 404."""
        try:
            for part in path:
                check_part(str(part))
        except NotFound as error:
            return ApiAnswer(status=error.http_status, problem=str(error))
        return await self._parts.api.send(self._key, method, path_of(*path), body=body, query=query)

    def missing(self, answer: ApiAnswer, section: str) -> Response:
        """Return the page that says why something is not shown."""
        return self.pages.show(self, "missing.html", section=section, status=answer.status, found=answer)

    @property
    def form_token(self) -> str:
        """Return the token that this session's forms carry; empty for a request with a key of its own."""
        cookie = session_of(self.request)
        return "" if cookie is None else EDGE.of(self.request).sessions.form_token(cookie)

    @property
    def address(self) -> str:
        """Return the address of the stack for shown commands."""
        return (self._parts.address or str(self.request.base_url)).rstrip("/")

    @property
    def shared(self) -> SharedParts:
        """Return the parts of pages that people of this tenant share."""
        return self._parts.shared

    @property
    def pages(self) -> Pages:
        """Return what renders pages."""
        return self._parts.pages


async def visit_of(
    request: Request,
    caller: Annotated[Caller, Depends(caller_of)],
    parts: Annotated[ConsoleParts, Depends(CONSOLE)],
) -> Visit:
    """Return the visit of a request."""
    return Visit(request, caller, parts)


VisitDep = Annotated[Visit, Depends(visit_of)]
