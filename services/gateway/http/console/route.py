"""Routes of the console: a browser without a session is sent to sign in, and comes back to the same page."""

from typing import ClassVar
from urllib.parse import parse_qsl, quote

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse

from mint_common.authority import Caller
from mint_common.errors import InvalidField, MintError, Unauthorized
from mint_common.runtime.edge_errors import invalid_field, retry_headers
from mint_common.runtime.edge_routes import Handler
from services.gateway.core.browser_sessions import FORM_FIELD, FORM_HEADER
from services.gateway.http.console.context import CONSOLE, Visit
from services.gateway.http.edge.context import EDGE, caller_of_key, key_of, session_of
from services.gateway.http.edge.refusal_log import note_refusal
from services.gateway.http.edge.routes import GatewayRoute

MAX_FORM_BYTES, MAX_FIELDS = 256 << 10, 100
"""Maximum size of a form, in bytes, and its maximum number of fields."""
MAX_NEXT = 2000
"""Maximum length of the address to which a person comes back after signing in."""
NUMBER_DIGITS = 9
"""Digits of a number in a form."""


class ConsoleRoute(GatewayRoute):
    """A route of a router made with ``route_class=ConsoleRoute``. Forms carry the token of their session."""

    max_body_bytes: ClassVar[int] = MAX_FORM_BYTES

    async def caller_of(self, request: Request) -> Caller:
        """Return the caller. Raises Unauthorized."""
        is_change = self.methods != {"GET"}
        return await caller_of_key(request, key_of(request), afresh=self.asks_afresh or is_change)

    async def serve(self, request: Request, caller: Caller, carry_out: Handler) -> Response:
        """Answer a request whose form has its session's token."""
        request = await self.admit(request, caller)
        if self.methods != {"GET"}:
            request.state.form = await _checked_form(request)
        return await carry_out(request)

    def get_route_handler(self) -> Handler:  # type: ignore[override]  # its Coroutine is an Awaitable
        """Wrap the route's own handler: what it refuses is a page."""
        carry_out = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await carry_out(request)
            except Unauthorized:
                if not _is_browser(request):
                    raise
                return _sign_in_first(request)
            except (MintError, RequestValidationError) as error:
                if not _is_browser(request):
                    raise
                note_refusal(request.scope, error)
                refusal = error if isinstance(error, MintError) else invalid_field(error)
                pages = CONSOLE.of(request).pages
                page = pages.plain("refused.html", status=refusal.http_status, problem=str(refusal))
                page.headers.update(retry_headers(refusal) or {})
                return page

        return handle


def read_form(body: bytes) -> dict[str, str]:
    """Return the fields of a form; of equal names the last. Raises InvalidField."""
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError as error:
        raise InvalidField(field="form", problem="is no form of this console") from error
    return dict(pairs)


async def _checked_form(request: Request) -> dict[str, str]:
    form = read_form(await request.body())
    cookie = session_of(request)
    token = form.pop(FORM_FIELD, "") or request.headers.get(FORM_HEADER, "")
    if cookie is not None:
        EDGE.of(request).sessions.check_form(request.method, cookie, token)
    return form


def _is_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "") or "hx-request" in request.headers


def _sign_in_first(request: Request) -> Response:
    """Return the way to the sign-in page, and from there back to a page that was looked at."""
    back = request.url.path if request.method == "GET" else "/console"
    query = f"?{request.url.query}" if request.method == "GET" and request.url.query else ""
    if len(back + query) > MAX_NEXT:
        back, query = "/console", ""
    place = f"/console/signin?next={quote(back + query, safe='')}"
    if "hx-request" in request.headers:  # a part of a page: the whole page has to go
        return Response(status_code=204, headers={"hx-redirect": place})
    return RedirectResponse(place, status_code=303)


def number_in(text: str) -> int | str:
    """Return the number that a field has, or its text, which the API refuses."""
    return int(text) if text.isdecimal() and text.isascii() and len(text) <= NUMBER_DIGITS else text


def form_of(visit: Visit) -> dict[str, str]:
    """Return the fields of the form that a visit sent."""
    return dict(visit.request.state.form)
