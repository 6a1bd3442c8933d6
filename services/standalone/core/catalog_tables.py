"""What the catalog's commands show: rows of JSON from the gateway as the cells of tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Json = Mapping[str, object]
_SHOWN_DIGEST = 19


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column's title and where its value is: a dotted path; ``kind`` says how it reads."""

    title: str
    path: str
    kind: str = "text"


POLICY = (
    Column(title="policy", path="name"),
    Column(title="base", path="base"),
    Column(title="rank", path="lora.rank"),
    Column(title="latest", path="latest.number"),
    Column(title="digest", path="latest.digest", kind="digest"),
    Column(title="made", path="created_at", kind="time"),
)
REVISION = (
    Column(title="revision", path="number"),
    Column(title="state", path="state"),
    Column(title="step", path="step"),
    Column(title="parent", path="parent", kind="digest"),
    Column(title="digest", path="digest", kind="digest"),
    Column(title="made", path="created_at", kind="time"),
)
ALIAS = (
    Column(title="alias", path="alias"),
    Column(title="revision", path="revision.number"),
    Column(title="moves", path="sequence"),
    Column(title="protected", path="protected", kind="flag"),
    Column(title="digest", path="revision.digest", kind="digest"),
)
MOVE = (
    Column(title="move", path="sequence"),
    Column(title="revision", path="number"),
    Column(title="who", path="actor"),
    Column(title="why", path="reason"),
    Column(title="when", path="at", kind="time"),
)
EVALUATION = (
    Column(title="revision", path="number"),
    Column(title="suite", path="suite"),
    Column(title="metric", path="metric"),
    Column(title="value", path="value", kind="number"),
    Column(title="n", path="n"),
    Column(title="+-", path="stderr", kind="number"),
    Column(title="who", path="actor"),
    Column(title="when", path="created_at", kind="time"),
)
COLLECTION = (
    Column(title="kind", path="kind"),
    Column(title="what", path="what"),
    Column(title="tenant", path="tenant_id"),
)
NODE = (
    Column(title="revision", path="number"),
    Column(title="step", path="step"),
    Column(title="parent", path="parent", kind="digest"),
    Column(title="digest", path="digest", kind="digest"),
    Column(title="aliases", path="aliases", kind="list"),
    Column(title="wave", path="wave_id"),
    Column(title="checkpoint", path="checkpoint"),
)
CHANGE = (
    Column(title="what", path="name"),
    Column(title="before", path="before", kind="number"),
    Column(title="after", path="after", kind="number"),
    Column(title="change", path="change", kind="number"),
)
RULE = (
    Column(title="rule", path="rule_id"),
    Column(title="alias", path="alias"),
    Column(title="suite", path="suite"),
    Column(title="metric", path="metric"),
    Column(title="at least", path="at_least", kind="number"),
    Column(title="max drop", path="max_drop", kind="number"),
    Column(title="back below", path="roll_back_below", kind="number"),
    Column(title="who", path="actor"),
)
TENANT = (
    Column(title="tenant", path="tenant_id"),
    Column(title="name", path="name"),
    Column(title="made", path="created_at", kind="time"),
)
AUDIT = (
    Column(title="place", path="place"),
    Column(title="when", path="at", kind="time"),
    Column(title="who", path="actor"),
    Column(title="what", path="method"),
    Column(title="where", path="path"),
    Column(title="outcome", path="status"),
)
KEY = (
    Column(title="key", path="key_id"),
    Column(title="name", path="name"),
    Column(title="begins", path="shown"),
    Column(title="scopes", path="scopes", kind="list"),
    Column(title="last used", path="last_used_at", kind="time"),
    Column(title="revoked", path="revoked_at", kind="time"),
)
WEBHOOK = (
    Column(title="webhook", path="webhook_id"),
    Column(title="state", path="state"),
    Column(title="url", path="url"),
    Column(title="events", path="event_types", kind="list"),
    Column(title="reason", path="reason"),
    Column(title="made", path="created_at", kind="time"),
)
DELIVERY = (
    Column(title="delivery", path="delivery_id"),
    Column(title="event", path="event_type"),
    Column(title="state", path="state"),
    Column(title="tries", path="tries"),
    Column(title="made", path="created_at", kind="time"),
    Column(title="next try", path="due_at", kind="time"),
)
JOB = (
    Column(title="job", path="job_id"),
    Column(title="state", path="state"),
    Column(title="base", path="base"),
    Column(title="task", path="spec.task"),
    Column(title="reason", path="reason"),
)


def cells(row: Json, columns: Sequence[Column]) -> tuple[str, ...]:
    """Return a row's cells; what is not there is empty."""
    return tuple(_cell(_at(row, column.path), column.kind) for column in columns)


def diff_rows(diff: Any) -> list[Json]:  # the gateway's JSON
    """Return the rows of a comparison: what is otherwise, then every module."""
    config = [{**change, "name": change["field"]} for change in diff["config"]]
    numbers = [*diff["metrics"], *diff["scores"]]
    modules = [{**change, "name": change["module"]} for change in diff["modules"]]
    return [*config, *numbers, *modules]


def _at(row: object, path: str) -> object:
    for part in path.split("."):
        row = row.get(part) if isinstance(row, Mapping) else None
    return row


def _cell(value: object, kind: str) -> str:
    match kind, value:
        case _, None:
            text = ""
        case "digest", str():
            text = value[:_SHOWN_DIGEST]
        case "time", int() | float():
            text = datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S")
        case "number", int() | float():
            text = f"{value:.6g}"
        case "list", list():
            text = ", ".join(map(str, value))
        case "flag", _:
            text = "yes" if value else ""
        case _:
            text = str(value)
    return text
