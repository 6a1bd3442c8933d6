"""Search of a tenant's sessions, and the names of their states."""

from datetime import UTC, datetime

import msgspec

from mint_common.errors import InvalidField, MintError
from mint_common.json_types import JsonObject
from services.gateway.core.tinker.ids import check_session_id
from services.gateway.core.tinker.records import ALIVE_SECONDS, ClientSession, FinishReason

MAX_FOUND = 200


class SessionGone(MintError):
    """No session named {session_id!r}: create a new one."""

    code = "session_gone"
    http_status = 410


class WantedStatus(msgspec.Struct, frozen=True):
    """One state; ``reasons`` None takes every end."""

    type: str
    reasons: list[FinishReason] | None = None


class SearchCursor(msgspec.Struct, frozen=True):
    """The session after which a page begins; the time is ISO 8601, UTC without a zone."""

    last_created_at: str
    last_session_id: str


class SearchOwner(msgspec.Struct, frozen=True):
    """The owner of the sessions; a tenant sees its own."""

    type: str = "own"
    owner_urns: list[str] | None = None


class SearchBody(msgspec.Struct, frozen=True):
    """A search: every condition must hold; of an id and a name, one is enough."""

    session_id: str | None = None
    project_ids: list[str] | None = None
    user_metadata: dict[str, str] = {}
    display_name: str | None = None
    owner: SearchOwner = SearchOwner()
    statuses: list[WantedStatus] | None = None
    limit: int = 50
    cursor: SearchCursor | None = None


def check_search(body: SearchBody) -> SearchBody:
    """Refuse a search that cannot find anything. Raises InvalidField."""
    if not 1 <= body.limit <= MAX_FOUND:
        raise InvalidField(field="limit", problem=f"must be from 1 to {MAX_FOUND}, got {body.limit}")
    if body.owner.type not in {"own", "accessible"}:
        problem = "must be own or accessible; a key sees the sessions of its tenant"
        raise InvalidField(field="owner.type", problem=problem)
    if body.display_name is not None and not body.display_name:
        raise InvalidField(field="display_name", problem="must not be empty")
    return body


def place_of(cursor: SearchCursor) -> tuple[float, str]:
    """Return the time, in seconds since the epoch, and the session after which a page begins.

    Raises InvalidField, NotFound.
    """
    try:
        at = datetime.fromisoformat(cursor.last_created_at)
    except ValueError as error:
        raise InvalidField(field="cursor.last_created_at", problem="is not an ISO 8601 time") from error
    # A time without a zone is UTC; timestamp() of a local year 1 overflows.
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return at.timestamp(), check_session_id(cursor.last_session_id)


def is_found(session: ClientSession, body: SearchBody, *, now: float) -> bool:
    """Return whether a search finds a session."""
    named = []
    if body.session_id is not None:
        named.append(session.session_id == body.session_id)
    if body.display_name is not None:
        shown = (session.display_name or "").casefold()
        named.append(all(word in shown for word in body.display_name.casefold().split()))
    return (
        (not named or any(named))
        and (body.project_ids is None or session.project_id in body.project_ids)
        and all(session.metadata.get(name) == value for name, value in body.user_metadata.items())
        and (body.statuses is None or any(_is_in(session, wanted, now=now) for wanted in body.statuses))
    )


def status_of(session: ClientSession, *, now: float) -> JsonObject | None:
    """Return a session's state, None for a silent one that its client did not finish."""
    if session.finish is not None:
        reason: JsonObject = {"type": session.finish}
        return {"type": "client_finished", "reason": reason, "detail": session.finish_detail}
    return {"type": "active"} if now - session.seen_at < ALIVE_SECONDS else None


def _is_in(session: ClientSession, wanted: WantedStatus, *, now: float) -> bool:
    status = status_of(session, now=now)
    if status is None or status["type"] != wanted.type:
        return False
    return wanted.reasons is None or session.finish in wanted.reasons
