"""The console's static files: read once, named with their digest, so that browsers keep them for good."""

import hashlib
import zlib
from dataclasses import dataclass
from importlib.resources import files

from fastapi import APIRouter, Request, Response

router = APIRouter(include_in_schema=False)

_FOLDER = files("services.gateway.http.console") / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_NAMES = (
    "console.css",
    "console.js",
    "charts.js",
    "live.js",
    "playground.js",
    "icon.svg",
    "vendor/htmx.min.js",
    "vendor/uPlot.iife.min.js",
    "vendor/uPlot.min.css",
)
PATH = "/console/static/{name:path}"
FOREVER = "public, max-age=31536000, immutable"
SAFELY = {"x-content-type-options": "nosniff"}
VERSION_DIGITS = 12
"""Digits of a file's sha256 in its address."""


@dataclass(frozen=True, slots=True)
class _Asset:
    content: bytes
    packed: bytes
    media_type: str
    digest: str


class Assets:
    """The files by name."""

    def __init__(self) -> None:
        self._files: dict[str, _Asset] = {}
        for name in _NAMES:
            content = _FOLDER.joinpath(*name.split("/")).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            media_type = _TYPES[name[name.rindex(".") :]]
            self._files[name] = _Asset(content, _gzip(content), media_type, digest)

    def address(self, name: str) -> str:
        """Return the address of a file, which changes with its content."""
        return f"/console/static/{name}?v={self._files[name].digest[:VERSION_DIGITS]}"

    def answer(self, name: str, *, version: str = "", takes_gzip: bool) -> Response:
        """Return a file; 404 if there is none of the name.

        Of another ``version`` than an address asks for, during an upgrade, it is not kept.
        """
        found = self._files.get(name)
        if found is None:
            return Response(status_code=404)
        headers = {**SAFELY, "vary": "accept-encoding"}
        headers["cache-control"] = FOREVER if version == found.digest[:VERSION_DIGITS] else "no-cache"
        if takes_gzip:
            headers["content-encoding"] = "gzip"
        return Response(
            found.packed if takes_gzip else found.content, media_type=found.media_type, headers=headers
        )

    @property
    def sent_bytes(self) -> int:
        """Return the size of all files as they are sent, in bytes."""
        return sum(len(each.packed) for each in self._files.values())


def _gzip(content: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(content) + packer.flush()


ASSETS = Assets()


@router.get(PATH)
async def static_file(name: str, request: Request, v: str = "") -> Response:
    """Return a static file."""
    takes_gzip = "gzip" in request.headers.get("accept-encoding", "")
    return ASSETS.answer(name, version=v, takes_gzip=takes_gzip)
