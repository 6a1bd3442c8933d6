"""What is known of a request that was answered with a future, and how ``retrieve_future`` says it."""

from dataclasses import dataclass
from typing import Literal

from mint_common.errors import MintError

JSON = "application/json"
PROTOBUF = "application/x-protobuf"

QueueState = Literal["active", "paused_capacity", "paused_rate_limit"]
"""Reason for a wait as the client sees it: ``paused_capacity`` is a cold adapter or a restarting
trainer."""


class FutureGone(MintError):
    """Request {request_id!r} is not known, or no longer: submit it again."""

    code = "future_gone"
    http_status = 410


@dataclass(frozen=True, slots=True, kw_only=True)
class FuturePending:
    """Not finished in the time waited; ``reason`` is for the user, empty when there is none to tell."""

    queue_state: QueueState = "active"
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FutureDone:
    """Finished: ``body`` is the answer as it goes out."""

    body: bytes
    media_type: str = JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class FutureFailed:
    """Failed for good. ``user`` errors are the request's own fault."""

    message: str
    category: Literal["user", "server", "unknown"]


FutureState = FuturePending | FutureDone | FutureFailed
