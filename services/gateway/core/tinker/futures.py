"""The states of a request that was answered with a future, as ``retrieve_future`` reports them."""

from dataclasses import dataclass
from typing import Literal

from mint_common.errors import MintError

JSON = "application/json"
PROTOBUF = "application/x-protobuf"

QueueState = Literal["active", "paused_capacity", "paused_rate_limit"]
"""Reason for a wait as the client sees it: ``paused_capacity`` is a cold adapter or a restarting
trainer."""


class FutureGone(MintError):
    """Request {request_id!r} is unknown or expired: submit it again."""

    code = "future_gone"
    http_status = 410


@dataclass(frozen=True, slots=True, kw_only=True)
class FuturePending:
    """Not finished in the time waited; ``reason`` is for the user, or empty."""

    queue_state: QueueState = "active"
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FutureDone:
    """Finished: ``body`` is the answer as sent."""

    body: bytes
    media_type: str = JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class FutureFailed:
    """Failed for good. ``user`` errors are the request's own fault."""

    message: str
    category: Literal["user", "server", "unknown"]


FutureState = FuturePending | FutureDone | FutureFailed
