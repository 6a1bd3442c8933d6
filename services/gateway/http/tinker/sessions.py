"""Sessions of client processes: start, heartbeats, end. Telemetry of clients is not stored."""

import logging
from typing import Literal

import msgspec
from fastapi import APIRouter, Response

from mint_common.authority import Caller
from mint_common.errors import NotFound
from mint_common.json_reading import read_json
from services.gateway.core.tinker.ids import keyed_session_id
from services.gateway.core.tinker.records import ClientSession
from services.gateway.core.tinker.session_search import SessionGone
from services.gateway.core.tinker.telemetry import TelemetryBody, errors_by_kind
from services.gateway.core.tinker.texts import check_metadata, check_tags, check_text
from services.gateway.http.edge.context import ReadCaller, TrainCaller
from services.gateway.http.edge.routes import TinkerRoute
from services.gateway.http.tinker.bodies import BodyDep, RequestKeyDep, answer
from services.gateway.http.tinker.context import Tinker, TinkerDep

router = APIRouter(route_class=TinkerRoute)

DEFAULT_PROJECT = "default"
MAX_DETAIL = 10_000

_log = logging.getLogger(__name__)


class CreateSessionBody(msgspec.Struct, frozen=True):
    """The body of ``create_session``."""

    tags: list[str] = []
    user_metadata: dict[str, object] | None = None
    sdk_version: str = ""
    project_id: str | None = None
    display_name: str | None = None


class HeartbeatBody(msgspec.Struct, frozen=True):
    """Sent every ten seconds."""

    session_id: str


class FinishReasonBody(msgspec.Struct, frozen=True):
    """The reason of the end."""

    type: Literal["success", "errored", "interrupted"]


class FinishBody(msgspec.Struct, frozen=True):
    """The body of ``finish_session``."""

    reason: FinishReasonBody
    detail: str | None = None


class ProjectBody(msgspec.Struct, frozen=True):
    """The project of a session."""

    project_id: str


@router.post("/create_session")
async def create_session(
    body: BodyDep, key: RequestKeyDep, caller: ReadCaller, tinker: TinkerDep
) -> Response:
    """Create a session; all requests with one key get the same."""
    wish = read_json(body, CreateSessionBody)
    now = round(tinker.clock.now(), 6)  # as exact as a cursor can express it
    session = ClientSession(
        session_id=keyed_session_id(caller.tenant_id, f"create_session {key}"),
        tenant_id=caller.tenant_id,
        project_id=check_text("project_id", wish.project_id or DEFAULT_PROJECT),
        display_name=None if wish.display_name is None else check_text("display_name", wish.display_name),
        tags=check_tags("tags", wish.tags),
        metadata=check_metadata("user_metadata", wish.user_metadata),
        sdk_version=check_text("sdk_version", wish.sdk_version),
        created_at=now,
        seen_at=now,
    )
    await tinker.runs.add_session(session)
    return answer({"type": "create_session", "session_id": session.session_id})


@router.post("/session_heartbeat")
async def heartbeat(body: BodyDep, caller: ReadCaller, tinker: TinkerDep) -> Response:
    """Record a heartbeat. 410 stops a client whose session is unknown."""
    session_id = read_json(body, HeartbeatBody).session_id
    try:
        await tinker.session(session_id, caller.tenant_id)
    except NotFound as error:
        raise SessionGone(session_id=session_id[:100]) from error
    await tinker.runs.see_session(session_id, now=tinker.clock.now())
    return answer({"type": "session_heartbeat"})


@router.post("/sessions/{session_id}/finish")
async def finish_session(session_id: str, body: BodyDep, caller: ReadCaller, tinker: TinkerDep) -> Response:
    """Record the end of a session. Its submitted operations continue."""
    wish = read_json(body, FinishBody)
    detail = None if wish.detail is None else check_text("detail", wish.detail[:MAX_DETAIL], most=MAX_DETAIL)
    await tinker.session(session_id, caller.tenant_id)
    await tinker.runs.finish_session(session_id, wish.reason.type, detail)
    return Response(status_code=204)


@router.put("/sessions/{session_id}/project")
async def move_session(session_id: str, body: BodyDep, caller: TrainCaller, tinker: TinkerDep) -> Response:
    """Move a session and its runs to a project."""
    project_id = check_text("project_id", read_json(body, ProjectBody).project_id)
    await tinker.session(session_id, caller.tenant_id)
    await tinker.runs.set_project(session_id, project_id)
    return Response(status_code=204)


@router.post("/telemetry")
async def telemetry(body: BodyDep, caller: ReadCaller, tinker: TinkerDep) -> Response:
    """Accept a client's telemetry; its errors become one log line with their kinds at most."""
    kinds = errors_by_kind(read_json(body, TelemetryBody).events)
    skipped = tinker.report_lines.take(tinker.clock.monotonic()) if kinds else None
    if skipped is not None:
        extra = {"key_id": caller.key_id, "kinds": kinds, "lines_left_out": skipped}
        _log.info("a client reported errors", extra=extra)
    return answer({"status": "accepted"})


async def add_ended_session(
    tinker: Tinker, caller: Caller, *, key: str, tag: str, project_id: str | None = None
) -> ClientSession:
    """Store an ended session for objects that a request of this key makes outside of sessions.

    An existing one stays unchanged.
    """
    now = round(tinker.clock.now(), 6)
    session = ClientSession(
        session_id=keyed_session_id(caller.tenant_id, key),
        tenant_id=caller.tenant_id,
        project_id=check_text("destination_project_id", project_id or DEFAULT_PROJECT),
        tags=(tag,),
        created_at=now,
        seen_at=now,
        finish="success",
    )
    await tinker.runs.add_session(session)
    return session
