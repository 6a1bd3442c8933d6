"""``/`` and ``/console/signin``: an API key becomes a browser's session, and ends as one."""

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from mint_common.errors import Forbidden, MintError, Unauthorized
from mint_common.runtime.disconnect import ClientGone
from mint_common.runtime.edge_body import read_body
from mint_common.runtime.slow_clients import paced
from services.gateway.core.browser_sessions import COOKIE, SESSION_SECONDS
from services.gateway.http.console.context import CONSOLE
from services.gateway.http.console.route import MAX_NEXT, read_form
from services.gateway.http.edge.context import EDGE, caller_of_key

router = APIRouter(include_in_schema=False)

HOME = "/console"
_USUAL_PORTS = (80, 443)
MAX_BYTES = 8 << 10
"""Maximum size of the form, in bytes."""

Next = Annotated[str, Query(max_length=MAX_NEXT)]


def own_page(address: str) -> str:
    """Return the page of the console that an address names; its first page for any other address."""
    is_own = address == HOME or address.startswith((f"{HOME}/", f"{HOME}?"))
    return address if is_own and not any(each in address for each in "\\\r\n\t") else HOME


@router.get("/")
async def home() -> Response:
    """Send a browser to the console."""
    return RedirectResponse(HOME, status_code=307)


@router.get("/console/signin")
async def sign_in_page(request: Request, next: Next = HOME) -> Response:  # noqa: A002  # the query's name
    """Show the form for a key."""
    return CONSOLE.of(request).pages.plain("signin.html", back=own_page(next), problem="")


@router.post("/console/signin")
async def sign_in(request: Request) -> Response:
    """Check a key and begin its session. Raises Forbidden for a form of another site."""
    _check_site(request)
    body = await read_body(paced(request.receive), request.headers, limit=MAX_BYTES)
    if body is None:
        raise ClientGone
    form = read_form(body)
    key, back = form.get("key", "").strip(), own_page(form.get("next", HOME))
    pages = CONSOLE.of(request).pages
    try:
        if not key:
            raise Unauthorized(problem="Enter an API key, such as the one that `mint up` printed.")
        await caller_of_key(request, key)
    except MintError as error:
        return pages.plain("signin.html", status=error.http_status, back=back, problem=str(error))
    edge = EDGE.of(request)
    answer = RedirectResponse(back, status_code=303)
    answer.set_cookie(
        COOKIE,
        edge.sessions.seal(key, now=edge.clock.now()),
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="lax",
        secure=_is_secure(request),
    )
    return answer


@router.post("/console/signout")
async def sign_out(request: Request) -> Response:
    """End the session of this browser. Raises Forbidden for a form of another site."""
    _check_site(request)
    answer = RedirectResponse("/console/signin", status_code=303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="lax", secure=_is_secure(request))
    return answer


def _check_site(request: Request) -> None:
    """Refuse what another site's page sends: it could sign a person in with a key that is not theirs.

    Browsers send Sec-Fetch-Site to https and to localhost only, and Origin to every address.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        is_own = site in {"same-origin", "none"}
    else:
        own = (f"http://{request.headers.get('host', '')}", CONSOLE.of(request).address)
        is_own = origin is None or _host_of(origin) in {*map(_host_of, own)} - {None}
    if not is_own:
        problem = "This form is not of this console: open /console and sign in there. Behind a proxy that"
        raise Forbidden(problem=f"{problem} changes the host, MINT_GATEWAY_PUBLIC_URL must be set.")


def _host_of(address: str) -> tuple[str, int | None] | None:
    """Return the host and port of an address, None for the port of its scheme; None if it has no host."""
    try:
        parts = urlsplit(address)
        port = None if parts.port in _USUAL_PORTS else parts.port
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname else None


def _is_secure(request: Request) -> bool:
    return request.url.scheme == "https" or CONSOLE.of(request).address.startswith("https:")
