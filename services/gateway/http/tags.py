"""ETags on answers about one thing: 304 for whoever has it already, 412 for changes of what was another."""

import msgspec
from fastapi import Request, Response

from mint_common.errors import PreconditionFailed
from services.gateway.core.etags import etag_of, is_expected, is_known


def tagged(request: Request, response: Response) -> Response:
    """Return a JSON answer with its tag, or 304 without a body when the client names that tag."""
    if response.status_code != 200:
        return response
    tag = etag_of(msgspec.json.decode(response.body))
    known = request.headers.get("if-none-match")
    if request.method in {"GET", "HEAD"} and known is not None and is_known(known, tag):
        return Response(status_code=304, headers={"etag": tag})
    response.headers["etag"] = tag
    return response


def check_expected(header: str | None, current: object, *, what: str) -> None:
    """Refuse a change whose If-Match does not name what stands now. Raises PreconditionFailed."""
    if header is not None:
        tag = etag_of(msgspec.to_builtins(current))
        if not is_expected(header, tag):
            raise PreconditionFailed(what=f"the ETag of {what}", found=tag, expected=header[:200])
