"""Quotas of tenants: limits, usage, and the error when a limit is exceeded."""

import math
from dataclasses import dataclass
from typing import Literal

from mint_common.errors import MintError

QuotaName = Literal[
    "policies",
    "keys",
    "adapters",
    "adapter_bytes",
    "open_jobs",
    "job_seconds",
    "client_seconds",
    "sessions",
    "webhooks",
]
"""Names of quotas. ``job_seconds``: trainer seconds that the steps of jobs took in the last 24 hours;
``client_seconds``: those that passes and steps of Tinker's clients took since midnight UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaUse:
    """A tenant's usage of one quota, and its limit; null: no limit."""

    name: QuotaName
    used: float
    limit: float | None


def quota_use(name: QuotaName, used: float, *, limit: float) -> QuotaUse:
    """Return the usage of a quota. A limit of 0 or infinity means no limit."""
    return QuotaUse(name=name, used=used, limit=limit if limit and math.isfinite(limit) else None)


class QuotaExceeded(MintError):
    """You have {used:g} {what}, and may have {limit:g}: {remedy}."""

    code = "quota_exceeded"
    http_status = 422


def check_quota(used: float, *, limit: float, what: str, remedy: str) -> None:
    """Refuse more of ``what`` to a tenant that has ``limit`` of it. Raises QuotaExceeded."""
    if used >= limit:
        raise QuotaExceeded(used=used, what=what, limit=limit, remedy=remedy)
