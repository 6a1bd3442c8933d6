"""Errors that cross a service boundary.

Each class that is sent has a stable ``code``, says whether a retry can help, and has the HTTP status of
the edge's answer; the part of a code after a dot is the class's kind. The docstring is the
message; its placeholders are the keyword arguments, stored as attributes. Messages are shown to users: they
contain no address of an internal part, and long texts are cut.
No user error maps to 408, 409, 429 or 5xx, which clients retry.
"""

import os
import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

MAX_TEXT = 2000
"""Characters of user input that an error repeats."""


class MintError(Exception):
    """Something failed."""

    code: str = "internal"
    retryable: ClassVar[bool] = False
    http_status: ClassVar[int] = 500

    def __init__(self, **fields: str | float) -> None:
        self.fields = {name: _cut(value) for name, value in fields.items()}
        super().__init__((type(self).__doc__ or "").format(**self.fields))

    def __reduce__(self) -> tuple[object, ...]:
        """Support copying and pickling from the fields."""
        return partial(type(self), **self.fields), ()

    def __getattr__(self, name: str) -> str | float:
        fields = self.__dict__.get("fields", {})
        if name in fields:
            return fields[name]  # type: ignore[no-any-return]  # the dict is typed in __init__
        raise AttributeError(name)

    def to_payload(self) -> dict[str, object]:
        """Return the JSON body of an error answer: code, message, retryable and the fields."""
        return {"code": self.code, "message": str(self), "retryable": self.retryable, **self.fields}


def plain_problem(error: BaseException) -> str:
    """Return what went wrong with a connection or file, without its address or path."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return type(error).__name__


def trace_of(error: BaseException) -> str:
    """Return the type of an error and where it was raised, innermost first; then its causes'. No texts."""
    walked = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    steps = [f"{Path(code.co_filename).name}:{line} {code.co_name}" for code, line in reversed(walked)]
    cause = error.__cause__ or error.__context__
    causes: Sequence[BaseException] = [cause] if cause else []
    if isinstance(error, BaseExceptionGroup):
        causes = error.exceptions
    said = [f"{type(error).__name__} at {' < '.join(steps)}", *(f"from {trace_of(each)}" for each in causes)]
    return "; ".join(said)


def _cut(value: str | float) -> str | float:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return value[:MAX_TEXT] + "..."
    return value


class NotFound(MintError):
    """No {kind} named {name!r}."""

    code = "not_found"
    http_status = 404

    def __str__(self) -> str:
        near = self.fields.get("near")
        return f"{super().__str__()} There is: {near}." if near else super().__str__()


class NoRevision(NotFound):
    """Policy {name!r} has no revision yet."""

    code = "no_revision"


class RevisionRetiredError(NotFound):
    """Revision {number} of policy {name!r} is retired: restore it, or name another one."""

    code = "revision_retired"


class RevisionQuarantinedError(NotFound):
    """Revision {number} of policy {name!r} is quarantined, its output not finite: roll back or restore it."""

    code = "revision_quarantined"


class RevisionLostError(NotFound):
    """The bytes of revision {number} of policy {name!r} are {fault}: export or upload them again."""

    code = "revision_lost"


class RevisionInUse(MintError):
    """Revision {number} cannot be retired while an alias points at it ({aliases}): move the alias first."""

    code = "revision_in_use"
    http_status = 422


class InUse(MintError):
    """{what} cannot be removed: {held_by}."""

    code = "in_use"
    http_status = 422


class AliasProtected(MintError):
    """Alias {alias!r} is protected: only a key with admin, a job of one, or a rule moves it."""

    code = "alias_protected"
    http_status = 403


class BaseChanged(MintError):
    """Base {name!r} is registered as {found}, not {expected}: give a changed base a new name."""

    code = "base_changed"
    http_status = 422


class InvalidField(MintError):
    """Field {field!r}: {problem}"""

    code = "invalid_field"
    http_status = 422


class RequestRefused(InvalidField):
    """{problem}"""

    code = "request_refused"


class BodyTooLarge(MintError):
    """A request body may have {limit_bytes} bytes at most."""

    code = "too_large"
    http_status = 413


class Unauthorized(MintError):
    """{problem}"""

    code = "unauthorized"
    http_status = 401


class Forbidden(MintError):
    """{problem}"""

    code = "forbidden"
    http_status = 403


class PreconditionFailed(MintError):
    """{what} is {found!r}, not {expected!r} as the request expected: read it again and repeat."""

    code = "precondition_failed"
    http_status = 412


class AdapterPinned(PreconditionFailed):
    """Adapter {digest} is pinned: unpin it first."""

    code = "adapter_pinned"


class AlreadyExists(MintError):
    """A {kind} named {name!r} exists already."""

    code = "already_exists"
    http_status = 422


class RangeBeyond(MintError):
    """The range begins at byte {begin} of an answer of {size_bytes} bytes."""

    code = "range_beyond"
    http_status = 416


class Overloaded(MintError):
    """{what} is full ({depth} waiting): try again in {retry_after_seconds} s."""

    code = "overloaded"
    retryable = True
    http_status = 429


class Unavailable(MintError):
    """{what} does not answer: {problem}"""

    code = "unavailable"
    retryable = True
    http_status = 503


class EngineRestarting(Unavailable):
    """The engine is restarting: try again in {retry_after_seconds} s."""

    code = "engine_restarting"


class EngineDied(MintError):
    """The engine ended while it ran this request: repeat it once, in {retry_after_seconds} s or later."""

    code = "engine_died"
    retryable = True
    http_status = 502


class RequestHeldBack(Unavailable):
    """An engine died while it ran this request, which may run once more: in {retry_after_seconds} s."""

    code = "request_held_back"


class RequestEndsEngines(MintError):
    """An engine ended {deaths} times while it ran this request: it is refused for {seconds} s."""

    code = "request_ends_engines"
    http_status = 422


class Stopping(Unavailable):
    """This service is stopping, and the time for open requests is over: repeat the request."""

    code = "stopping"


class PeerFailed(Unavailable):
    """{what} failed: it answered {status}."""

    code = "peer_failed"
    http_status = 502


class EngineFailed(PeerFailed):
    """The engine failed on this request: {problem}"""

    code = "engine_failed"


class RevisionNotReady(MintError):
    """Revision {number} of policy {name!r} is not ready after {seconds} s: the alias has not moved."""

    code = "revision_not_ready"
    retryable = True
    http_status = 503


class TaskFailed(MintError):
    """Task {task!r} failed: {problem}"""

    code = "task_failed"
    http_status = 422


class TaskLeftOut(MintError):
    """There is no task {task!r}: {reason}."""

    code = "task_left_out"
    http_status = 422


class BlobMissing(MintError):
    """No blob at {uri!r}."""

    code = "blob_missing"
    http_status = 422


class BlobCorrupt(MintError):
    """Blob {uri!r} is not what its claim says: expected {expected}, found {found}."""

    code = "blob_corrupt"
    http_status = 422


class AdapterInvalid(MintError):
    """Adapter refused ({reason}): {problem}"""

    code = "adapter_invalid"
    http_status = 422


class UploadRefused(AdapterInvalid):
    """Upload refused ({reason}): {problem}. {fix}"""

    code = "upload_refused"

    def __init__(self, **fields: str | float) -> None:
        super().__init__(**fields)
        self.code = f"{type(self).code}.{self.reason}"


class NonFiniteOutput(MintError):
    """Revision {digest} computes numbers that are not finite, so it has no answer: use an earlier one."""

    code = "non_finite_output"
    http_status = 422


class EventInvalid(MintError):
    """Event {type!r} cannot be read: {problem}"""

    code = "event_invalid"
    http_status = 422


class EventsExpired(MintError):
    """Events after {place!r} have expired: read the current state, then listen without a position."""

    code = "events_expired"
    http_status = 410


class AlreadyHandled(MintError):
    """Cause {cause!r} is committed already."""

    code = "already_handled"


class SettingInvalid(MintError):
    """Setting {name}: {problem}"""

    code = "setting_invalid"
    http_status = 422


class InternalTokenRefused(MintError):
    """Header x-mint-internal-token is missing or wrong: do all services share one MINT_INTERNAL_TOKEN?"""

    code = "internal_token_refused"
    http_status = 401


class RemoteError(MintError):
    """{what} answered {remote_code!r}: {problem}"""

    code = "remote_error"
    http_status = 502


class RemoteRefusal(RemoteError):
    """{what} answered {remote_code!r}: {problem}"""

    code = "remote_refusal"
    http_status = 422


def error_from_payload(payload: Mapping[str, object], *, what: str = "the other side") -> MintError:
    """Return the error that `MintError.to_payload` described; RemoteError if its class is not known here."""
    code = str(payload.get("code", "unknown"))
    fields: dict[str, Any] = {  # what the class of the error takes
        name: value
        for name, value in payload.items()
        if name not in {"code", "message", "retryable"} and isinstance(value, str | int | float | list)
    }
    # The code of a refused job is its reason.
    kind = _classes().get("job_refused" if fields.get("reason") == code else code.partition(".")[0])
    if kind is not None:
        try:
            return kind(**fields)
        except (KeyError, ValueError):  # the other side is of a version with other fields
            pass
    return RemoteError(what=what, remote_code=code, problem=str(payload.get("message", ""))[:500])


def has_class(code: str) -> bool:
    """Return whether an error's code is that of a class which is known here."""
    return code.partition(".")[0] in _classes()


def _classes() -> dict[str, type[MintError]]:
    found: dict[str, type[MintError]] = {}
    waiting = list(MintError.__subclasses__())
    while waiting:
        kind = waiting.pop()
        if "code" in vars(kind):
            found.setdefault(kind.code, kind)
        waiting += kind.__subclasses__()
    return found
