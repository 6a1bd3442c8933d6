"""Cross-origin requests: pages of named origins may call the API from a browser, with a key of theirs."""

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.datastructures import Headers
from starlette.responses import Response

from mint_common.generation import ENGINE_HEADER, REVISION_HEADER, TIER_HEADER
from mint_common.runtime.edge_middleware import TRACE_HEADER
from mint_common.telemetry.tracing import REQUEST_HEADER, request_of
from services.gateway.http.edge.errors import ANTHROPIC_REQUEST_HEADER
from services.gateway.http.edge.recording import REPEATED_HEADER

_IDS = (REQUEST_HEADER, ANTHROPIC_REQUEST_HEADER, TRACE_HEADER, REVISION_HEADER, ENGINE_HEADER, TIER_HEADER)
_EXPOSED = (*_IDS, REPEATED_HEADER, "etag", "retry-after", "content-range")


def allow_origins(http: FastAPI, origins: tuple[str, ...]) -> None:
    """Answer preflights, which have no key, and let pages of these origins read answers; `*` is any."""
    methods = ("GET", "POST", "PUT", "PATCH", "DELETE")
    http.add_middleware(
        _Cors, allow_origins=origins, allow_methods=methods, allow_headers=("*",), expose_headers=_EXPOSED
    )


class _Cors(CORSMiddleware):
    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        response.headers[REQUEST_HEADER] = request_of(request_headers)
        return response
