"""``/docs``: the REST reference, rendered from ``/openapi.json`` in the browser without other hosts."""

from importlib.metadata import version
from importlib.resources import files

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_redoc_html

router = APIRouter(include_in_schema=False)

VERSION = version("mint-stack")
DESCRIPTION = """Send an API key as `Authorization: Bearer <key>` or as `x-api-key: <key>`. A key has scopes;
a request that lacks its route's scope is answered 403.

Under `/mint/v1` an error is `{"error": {"code", "message", "retryable", ...}}`; routes under `/v1` answer in
OpenAI's shape. `retryable` says whether the same request can succeed later; then `Retry-After` says when.
A POST with an `Idempotency-Key` is carried out once, however often it is sent. Every answer has an
`x-request-id`, the request's own if it has one.
"""

_SCRIPT = "/docs/redoc.js"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy of the page. Redoc uses inline styles and searches in a worker."""


@router.get("/docs")
async def reference() -> Response:
    """Return the page."""
    page = get_redoc_html(
        openapi_url="/openapi.json",
        title="MinT: REST reference",
        redoc_js_url=_SCRIPT,
        redoc_favicon_url="data:,",
        with_google_fonts=False,
    )
    page.headers["content-security-policy"] = _POLICY
    return page


@router.get(_SCRIPT)
def script() -> Response:
    """Return Redoc's script from its package."""
    code = (files("fastapi_offline") / "static" / "redoc.standalone.js").read_bytes()
    return Response(code, media_type="text/javascript", headers={"cache-control": "public, max-age=86400"})
