"""``retrieve_future``: the outcome of a request that was answered with a future, by long poll.

Invariants: a poll ends before its client's timeout; a disconnected client's poll ends at once; any gateway
answers for a sample, which the gateway has that took it in.
"""

import msgspec
from fastapi import APIRouter, Request, Response

from mint_common.json_reading import read_json
from mint_common.runtime.disconnect import cancelled_on_disconnect
from services.gateway.core.tinker.futures import (
    PROTOBUF,
    FutureDone,
    FutureFailed,
    FutureGone,
    FuturePending,
    FutureState,
)
from services.gateway.http.edge.context import ReadCaller
from services.gateway.http.edge.routes import TinkerRoute
from services.gateway.http.tinker.bodies import BodyDep, answer
from services.gateway.http.tinker.context import TinkerDep

router = APIRouter(route_class=TinkerRoute)

WAIT_SECONDS = 25.0
"""Maximum duration of a poll. Clients time out after 45 s, proxies often after 30 s."""
_SDK_HEADER = "x-stainless-package-version"


class RetrieveBody(msgspec.Struct, frozen=True):
    """The id of the request; ``allow_metadata_only`` is accepted and has no effect."""

    request_id: str


@router.post("/retrieve_future")
async def retrieve_future(request: Request, body: BodyDep, caller: ReadCaller, tinker: TinkerDep) -> Response:
    """Answer when the request is done, or report after a while that it is not."""
    request_id = read_json(body, RetrieveBody).request_id
    source = next(
        (found for prefix, found in tinker.futures.items() if request_id.startswith(prefix)),
        None,
    )
    if source is None:
        raise FutureGone(request_id=request_id[:100])
    if tinker.other_gateways.is_elsewhere(request_id):
        async with cancelled_on_disconnect(request):
            found = await tinker.other_gateways.poll(request_id, body, request.headers)
        return Response(found.body, status_code=found.status, headers=dict(found.headers))
    async with cancelled_on_disconnect(request):
        state = await source.outcome(
            request_id,
            caller.tenant_id,
            wait_seconds=WAIT_SECONDS,
            as_protobuf=PROTOBUF in request.headers.get("accept", ""),
        )
    return _tell(request_id, state, is_sdk=_SDK_HEADER in request.headers)


def _tell(request_id: str, state: FutureState, *, is_sdk: bool) -> Response:
    match state:
        case FutureDone():
            return Response(state.body, media_type=state.media_type)
        case FutureFailed():
            return answer({"error": state.message, "category": state.category})
        case FuturePending():
            waiting: dict[str, str] = {"queue_state": state.queue_state}
            if state.reason:
                waiting["queue_state_reason"] = state.reason
            # The official client reads 408 as "not yet"; to others it would be an error.
            if not is_sdk:
                return answer({"type": "try_again", "request_id": request_id, **waiting})
            response = answer(waiting)
            response.status_code = 408
            return response
