"""Every table that `mint` shows: fields of the gateway's JSON, how each reads, what narrow terminals drop."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Row = Mapping[str, object]
MIB = 1 << 20
DIGEST_CHARACTERS = 19
BAR_CELLS = 20
GAP = 2
"""Spaces between two columns."""

_TIERS = ("slot", "host", "stored")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column's title and where its value is: a dotted path; ``kind`` says how it reads.

    A table that is too wide loses the columns with the highest ``drop`` first; those with 0 stay.
    """

    title: str
    path: str
    kind: str = "text"
    drop: int = 0


POLICY = (
    Column(title="policy", path="name"),
    Column(title="base", path="base", drop=3),
    Column(title="rank", path="lora.rank", drop=2),
    Column(title="latest", path="latest.number"),
    Column(title="digest", path="latest.digest", kind="digest", drop=5),
    Column(title="made", path="created_at", kind="time", drop=6),
)
REVISION = (
    Column(title="revision", path="number"),
    Column(title="state", path="state", kind="state"),
    Column(title="step", path="step", drop=2),
    Column(title="reward", path="metrics.reward_mean", kind="score"),
    Column(title="scores", path="scores", drop=1),
    Column(title="aliases", path="aliases", kind="list", drop=3),
    Column(title="parent", path="parent", kind="digest", drop=5),
    Column(title="digest", path="digest", kind="digest", drop=4),
    Column(title="made", path="created_at", kind="time", drop=6),
)
ALIAS = (
    Column(title="alias", path="alias"),
    Column(title="revision", path="revision.number"),
    Column(title="moves", path="sequence", drop=2),
    Column(title="protected", path="protected", kind="flag", drop=1),
    Column(title="moved by", path="moved_by", kind="list", drop=3),
    Column(title="digest", path="revision.digest", kind="digest", drop=5),
)
MOVE = (
    Column(title="move", path="sequence"),
    Column(title="revision", path="number"),
    Column(title="who", path="actor", drop=3),
    Column(title="why", path="reason"),
    Column(title="when", path="at", kind="time", drop=4),
)
EVALUATION = (
    Column(title="revision", path="number"),
    Column(title="suite", path="suite"),
    Column(title="metric", path="metric"),
    Column(title="value", path="value", kind="number"),
    Column(title="n", path="n"),
    Column(title="+-", path="stderr", kind="number"),
    Column(title="who", path="actor", drop=3),
    Column(title="when", path="created_at", kind="time", drop=4),
)
COLLECTION = (
    Column(title="kind", path="kind"),
    Column(title="what", path="what"),
    Column(title="tenant", path="tenant_id"),
)
NODE = (
    Column(title="revision", path="number"),
    Column(title="step", path="step"),
    Column(title="parent", path="parent", kind="digest", drop=4),
    Column(title="digest", path="digest", kind="digest", drop=5),
    Column(title="aliases", path="aliases", kind="list"),
    Column(title="wave", path="wave_id", drop=6),
    Column(title="checkpoint", path="checkpoint", drop=5),
)
CHANGE = (
    Column(title="what", path="name"),
    Column(title="before", path="before", kind="number"),
    Column(title="after", path="after", kind="number"),
    Column(title="change", path="change"),
)
RULE = (
    Column(title="rule", path="rule_id"),
    Column(title="alias", path="alias"),
    Column(title="suite", path="suite"),
    Column(title="metric", path="metric"),
    Column(title="at least", path="at_least", kind="number"),
    Column(title="max drop", path="max_drop", kind="number"),
    Column(title="back below", path="roll_back_below", kind="number"),
    Column(title="takes", path="choose", drop=2),
    Column(title="cooldown s", path="cooldown_seconds", kind="number", drop=2),
    Column(title="paused", path="paused", kind="flag", drop=1),
    Column(title="who", path="actor", drop=3),
)
TENANT = (
    Column(title="tenant", path="tenant_id"),
    Column(title="name", path="name"),
    Column(title="made", path="created_at", kind="time", drop=6),
)
AUDIT = (
    Column(title="place", path="place"),
    Column(title="when", path="at", kind="time", drop=4),
    Column(title="who", path="actor", drop=3),
    Column(title="what", path="method"),
    Column(title="where", path="path"),
    Column(title="outcome", path="status"),
)
KEY = (
    Column(title="key", path="key_id"),
    Column(title="name", path="name"),
    Column(title="begins", path="shown", drop=1),
    Column(title="scopes", path="scopes", kind="list", drop=2),
    Column(title="last used", path="last_used_at", kind="time", drop=3),
    Column(title="revoked", path="revoked_at", kind="time", drop=4),
)
WEBHOOK = (
    Column(title="webhook", path="webhook_id"),
    Column(title="state", path="state", kind="state"),
    Column(title="url", path="url"),
    Column(title="events", path="event_types", kind="list", drop=4),
    Column(title="reason", path="reason", drop=3),
    Column(title="made", path="created_at", kind="time", drop=6),
)
DELIVERY = (
    Column(title="delivery", path="delivery_id"),
    Column(title="event", path="event_type"),
    Column(title="state", path="state", kind="state"),
    Column(title="tries", path="tries", drop=1),
    Column(title="made", path="created_at", kind="time", drop=6),
    Column(title="next try", path="due_at", kind="time", drop=5),
)
JOB = (
    Column(title="job", path="job_id"),
    Column(title="policy", path="policy"),
    Column(title="task", path="spec.task", drop=3),
    Column(title="state", path="state", kind="state"),
    Column(title="step", path="step", drop=1),
    Column(title="reward", path="reward", kind="score", drop=2),
    Column(title="best", path="best.number", drop=3),
    Column(title="took", path="took", drop=4),
    Column(title="reason", path="reason", drop=5),
)
STEP = (
    Column(title="step", path="step"),
    Column(title="reward", path="reward", kind="score"),
    Column(title="", path="bar", kind="bar", drop=1),
    Column(title="revision", path="revision"),
    Column(title="digest", path="digest", kind="digest", drop=3),
    Column(title="tier", path="tier", kind="state", drop=2),
)
TASK = (
    Column(title="task", path="name"),
    Column(title="steps", path="defaults.steps", drop=2),
    Column(title="rank", path="defaults.rank", drop=2),
    Column(title="description", path="description", drop=1),
)
FIELD = (
    Column(title="what", path="name"),
    Column(title="value", path="value", kind="number"),
)
ANSWER = (
    Column(title="model", path="model"),
    Column(title="answer", path="text"),
    Column(title="revision", path="revision", kind="digest", drop=1),
)
PART = (
    Column(title="part", path="name"),
    Column(title="state", path="state", kind="state"),
    Column(title="pid", path="pid", drop=2),
    Column(title="port", path="port", drop=1),
    Column(title="restarts", path="restarts"),
)
BASE = (
    Column(title="base", path="name"),
    Column(title="architecture", path="architecture", drop=1),
    Column(title="digest", path="digest", kind="digest", drop=4),
    Column(title="max rank", path="max_rank"),
    Column(title="context", path="max_context", drop=2),
    Column(title="MiB", path="size_bytes", kind="mib", drop=3),
)
ENGINE = (
    Column(title="engine", path="engine_id"),
    Column(title="base", path="base", drop=3),
    Column(title="requests", path="load.requests", kind="known"),
    Column(title="slots", path="used.slots", kind="known"),
    Column(title="host", path="used.host", kind="known", drop=1),
    Column(title="host MiB", path="used.mib", kind="known", drop=4),
    Column(title="loading", path="load.loads_running", kind="known", drop=2),
    Column(title="queued", path="load.loads_waiting", kind="known", drop=2),
)
ADAPTER = (
    Column(title="revision", path="revision"),
    Column(title="engine", path="engine_id", drop=4),
    Column(title="tier", path="tier"),
    Column(title="state", path="readiness", kind="state"),
    Column(title="MiB", path="size_bytes", kind="mib", drop=5),
    Column(title="in use", path="in_flight", kind="count", drop=2),
    Column(title="pinned", path="pinned", kind="flag", drop=1),
    Column(title="last use", path="last_use", drop=3),
    Column(title="digest", path="digest", kind="digest", drop=6),
)


def cells(row: Row, columns: Sequence[Column]) -> tuple[str, ...]:
    """Return a row's cells; what is not there is empty."""
    return tuple(_cell(_at(row, column.path), column.kind) for column in columns)


def fitting(columns: Sequence[Column], rows: Sequence[Row], *, width: int) -> tuple[Column, ...]:
    """Return the columns that a terminal of ``width`` characters shows without cutting a cell.

    A column that may be dropped is, where no row has anything in it.
    """
    kept = [column for column in columns if not column.drop or any(cells(row, [column])[0] for row in rows)]
    while _table_width(kept, rows) > width and any(column.drop for column in kept):
        kept.remove(max(kept, key=lambda column: column.drop))
    return tuple(kept)


def _table_width(columns: Sequence[Column], rows: Sequence[Row]) -> int:
    lines = [tuple(column.title for column in columns), *(cells(row, columns) for row in rows)]
    return sum(max(map(len, cell)) + GAP for cell in zip(*lines, strict=True)) - GAP


def page_hint(rows: Sequence[Row], wanted: Mapping[str, object], *, page_by: str) -> str:
    """Return how to see what a full page leaves out, or ""; ``page_by`` is where a row has its mark."""
    if not rows or len(rows) != wanted.get("limit"):
        return ""
    for option in ("after", "before"):
        if option in wanted:
            return f"{len(rows)} are shown; the next: --{option} {_at(rows[-1], page_by)}"
    return f"{len(rows)} are shown; more: --limit N"


def engine_rows(engines: Sequence[Any]) -> list[Row]:  # the gateway's JSON
    """Return engines with what they use of what they have; "?" where an engine did not say."""
    return [{**engine, "used": _used(engine, engine["load"])} for engine in engines]


def _used(engine: Any, load: Any) -> Row:
    if load is None:
        return {}
    return {
        "slots": f"{load['in_slots']}/{engine['slots']}",
        "host": f"{load['in_host']}/{engine['host_capacity']}",
        "mib": f"{load['host_bytes'] / MIB:.0f}/{load['host_bytes_capacity'] / MIB:.0f}",
    }


def adapter_rows(adapters: Sequence[Any], *, now: float) -> list[Row]:  # the gateway's JSON
    """Return adapters by tier, in each the most recently used first."""
    ordered = sorted(adapters, key=_by_tier)
    return [{**adapter, **_in_words(adapter, now=now)} for adapter in ordered]


def _by_tier(adapter: Any) -> tuple[int, float, str, int, str]:
    tier = _TIERS.index(adapter["tier"])
    return tier, -adapter["last_used_at"], adapter["policy"], adapter["number"], adapter["engine_id"]


def _in_words(adapter: Any, *, now: float) -> Row:
    position, used_at = adapter.get("queue_position"), adapter["last_used_at"]
    return {
        "revision": f"{adapter['policy']}@{adapter['number']}",
        "readiness": adapter["readiness"] if position is None else f"queued ({position + 1}.)",
        "last_use": ago(now - used_at) if used_at else "",
    }


def diff_rows(diff: Any) -> list[Row]:  # the gateway's JSON
    """Return the rows of a comparison: scores first, then metrics, the norm of every module, and settings.

    A module has moved by the norm of its difference, which may be large where two norms are equal.
    """
    numbers = [_with_change(row) for row in (*diff["scores"], *diff["metrics"])]
    modules = [
        {**row, "name": f"norm of {row['module']}", "change": f"moved {row['change']:.5g}"}
        for row in diff["modules"]
    ]
    settings = [{**change, "name": change["field"]} for change in diff["config"]]
    return [*numbers, *modules, *settings]


def _with_change(row: Any) -> Row:
    before, after = row["before"], row["after"]
    return {**row, "change": None if before is None or after is None else f"{after - before:+.5g}"}


def field_rows(fields: Mapping[str, object]) -> list[Row]:
    """Return one row a field, those of nested objects as ``outer.inner``; empty ones are left out."""
    rows: list[Row] = []
    for name, value in fields.items():
        if isinstance(value, Mapping):
            rows += [{**row, "name": f"{name}.{row['name']}"} for row in field_rows(value)]
        elif value not in (None, "", []):
            rows.append({"name": name, "value": value})
    return rows


def scored_rows(
    revisions: Sequence[Any], evaluations: Sequence[Any], aliases: Sequence[Any]
) -> list[Row]:  # the gateway's JSON
    """Return revisions with the latest score of each suite and metric, and the aliases that point at them."""
    latest = {(row["number"], row["suite"], row["metric"]): row for row in evaluations}
    scores: dict[int, list[str]] = {}
    for (number, suite, metric), row in latest.items():
        scores.setdefault(number, []).append(f"{suite} {metric} {_score(row)}")
    pointing: dict[int, list[str]] = {}
    for alias in aliases:
        pointing.setdefault(alias["revision"]["number"], []).append(alias["alias"])
    return [
        {**each, "scores": "; ".join(scores.get(each["number"], ())), "aliases": pointing.get(each["number"])}
        for each in revisions
    ]


def _score(row: Any) -> str:
    stderr = row.get("stderr")
    return f"{row['value']:.3f}" + (f" ± {stderr:.3f}" if stderr else "")


def ago(seconds: float) -> str:
    """Return how long ago something was, in one unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def _at(row: object, path: str) -> object:
    for part in path.split("."):
        row = row.get(part) if isinstance(row, Mapping) else None
    return row


def _cell(value: object, kind: str) -> str:
    if value is None:
        return "?" if kind == "known" else ""
    return FORMATS.get(kind, str)(value)


def _time(value: Any) -> str:
    return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _number(value: Any) -> str:
    return (
        value[:DIGEST_CHARACTERS]
        if _is_digest(value)
        else f"{value:.5g}"
        if _is_number(value)
        else str(value)
    )


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("sha256:")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


FORMATS: Mapping[str, Callable[[Any], str]] = {
    "digest": lambda value: value[:DIGEST_CHARACTERS],
    "time": _time,
    "number": _number,
    "score": lambda value: f"{value:.3f}",
    "bar": lambda value: "█" * round(BAR_CELLS * min(1.0, max(0.0, value))),
    "mib": lambda value: f"{value / MIB:.1f}",
    "list": ", ".join,
    "flag": lambda value: "yes" if value else "",
    "count": lambda value: str(value or ""),
}
"""How a value reads; a column of another kind shows its text."""
