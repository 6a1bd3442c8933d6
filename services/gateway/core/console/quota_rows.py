"""A tenant's use beside its limits, as a panel shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.gateway.core.console.words import NONE, number, size, span

NEAR = 0.9
"""Share of a limit from which it is called nearly reached."""
_LABELS: Mapping[str, str] = {
    "policies": "Policies",
    "keys": "API keys",
    "adapters": "Stored adapters",
    "adapter_bytes": "Bytes of stored adapters",
    "open_jobs": "Open jobs",
    "job_seconds": "Trainer time of jobs, last 24 hours",
    "client_seconds": "Trainer time of clients, since midnight UTC",
    "sessions": "Tinker sessions",
    "webhooks": "Webhooks",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaRow:
    """One quota in words; ``share`` is of its limit, None without one."""

    name: str
    label: str
    used: str
    limit: str
    share: float | None

    @property
    def is_near(self) -> bool:
        """Return whether the limit is nearly reached."""
        return self.share is not None and self.share >= NEAR


def quota_rows(uses: Sequence[Mapping[str, Any]]) -> list[QuotaRow]:
    """Return the rows for what the API answers."""
    return [_row(use["name"], use["used"], use["limit"]) for use in uses]


def _row(name: str, used: float, limit: float | None) -> QuotaRow:
    told = size if name.endswith("bytes") else span if name.endswith("seconds") else _count
    return QuotaRow(
        name=name,
        label=_LABELS.get(name, name),
        used=told(used) if used else "0",
        limit=NONE if limit is None else told(limit),
        share=None if limit is None else min(1.0, used / limit),
    )


def _count(value: float) -> str:
    return number(round(value))
