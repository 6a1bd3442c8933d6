"""Rows of tables: made of the gateway's JSON, turned into text, fitted to a width."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from mint_client.core.columns import Column
from mint_common.answer_ids import PREFIX_DIGITS

Row = Mapping[str, object]
MIB = 1 << 20
DIGEST_CHARACTERS = len("sha256:") + PREFIX_DIGITS
"""Characters of a shown digest, which the console's Find takes."""
BAR_CELLS = 16
SHOWN_CHARACTERS = 200
"""Characters of an answer that are shown."""
GAP = 2
"""Spaces between two columns."""
LINE_BREAK = "; "
"""Separates the lines of a cell, which a terminal shows below each other."""

_TIERS = ("slot", "host", "stored")
_REWARDS = {"reward": "reward", "reward_mean": "reward of its parent"}


def cells(row: Row, columns: Sequence[Column]) -> tuple[str, ...]:
    """Return a row's cells; missing ones are empty."""
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
    return sum(max(map(_width, cell)) + GAP for cell in zip(*lines, strict=True)) - GAP


def _width(cell: str) -> int:
    return max(map(len, cell.split(LINE_BREAK)))


def page_hint(rows: Sequence[Row], wanted: Mapping[str, object], *, page_by: str) -> str:
    """Return how to see the next page, or ""; ``page_by`` is a row's cursor."""
    if not rows or len(rows) != wanted.get("limit"):
        return ""
    for option in ("after", "before"):
        if option in wanted:
            return f"{len(rows)} are shown; the next: --{option} {_at(rows[-1], page_by)}"
    return f"{len(rows)} are shown; more: --limit N"


def engine_rows(engines: Sequence[Any]) -> list[Row]:  # the gateway's JSON
    """Return engines with their use and capacity; "?" where an engine did not report.

    One that restarts shows that, and its expected return; one that does not answer shows that.
    """
    return [{**engine, "used": _used(engine, engine["load"]), "away": _away(engine)} for engine in engines]


def trainer_rows(trainers: Sequence[Any], policies: Sequence[Any]) -> list[Row]:  # the gateway's JSON
    """Return trainers with the names of the policies at work there, and how many are of how many together."""
    names = {policy["policy_id"]: policy["name"] for policy in policies}
    return [
        {
            **trainer,
            "full": f"{trainer['held']}/{trainer['room']}",
            "names": [names.get(policy_id, policy_id) for policy_id in trainer["policies"]],
        }
        for trainer in trainers
    ]


def _away(engine: Any) -> str:
    if engine.get("state") == "silent":
        return "does not answer"
    seconds = engine["retry_after_seconds"]
    return "" if seconds is None else f"restarts, back in {seconds} s"


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


def with_restarting(rows: Sequence[Row], earlier: Sequence[Row], engines: Sequence[Row]) -> list[Row]:
    """Return rows of adapters, and those of an engine that restarts as it had them: it loads them again."""
    away = {engine["engine_id"] for engine in engines if engine["away"]} - {row["engine_id"] for row in rows}
    lost = {"readiness": "restarting", "tier": "", "in_flight": 0}
    return [*rows, *({**row, **lost} for row in earlier if row["engine_id"] in away)]


def restart_notes(engines: Sequence[Row]) -> list[str]:
    """Return a sentence for each engine that restarts."""
    return [
        f"{engine['engine_id']} {engine['away']}: what it held is loaded again then"
        for engine in engines
        if engine["retry_after_seconds"] is not None
    ]


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


_SHOWN_MODULES = 8


def diff_rows(diff: Any) -> list[Row]:  # the gateway's JSON
    """Return the rows of a comparison: scores, metrics, norms of the modules that moved most, and settings.

    Rewards come first: of a revision's own samples, and of its parent's, which it was trained on. A module
    has moved by the norm of its difference, which may be large where two norms are equal.
    """
    metrics = {row["name"]: row for row in diff["metrics"]}
    rewards = [{**metrics.pop(name), "name": shown} for name, shown in _REWARDS.items() if name in metrics]
    numbers = [_with_change(row) for row in (*diff["scores"], *rewards, *metrics.values())]
    moved = sorted(diff["modules"], key=lambda row: -row["change"])
    modules: list[Row] = [
        {**row, "name": f"norm of {row['module']}", "change": f"moved {row['change']:.5g}"}
        for row in moved[:_SHOWN_MODULES]
    ]
    if others := len(moved) - len(modules):
        modules.append({"name": f"{others} other modules", "change": "moved less: see --json"})
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
            rows.append({"name": name, "value": _field(name, value)})
    return rows


def _field(name: str, value: object) -> object:
    """Return a time as text, by its name, and a list in one line."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return _time(value) if name.endswith("_at") else value


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, such as ``2 rows``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


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


def _printable(value: str) -> str:
    """Return the beginning of an untrusted text, without terminal control sequences."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in value[:SHOWN_CHARACTERS])


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("sha256:")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


FORMATS: Mapping[str, Callable[[Any], str]] = {
    "digest": lambda value: value[:DIGEST_CHARACTERS],
    "time": _time,
    "number": _number,
    "score": lambda value: f"{value:.3f}",
    "epoch": lambda value: f"{value:.2f}",
    "rate": lambda value: f"{value:.2g}",
    "foreign": _printable,
    "bar": lambda value: "█" * round(BAR_CELLS * min(1.0, max(0.0, value))),
    "mib": lambda value: f"{value / MIB:.1f}",
    "list": ", ".join,
    "lines": LINE_BREAK.join,
    "flag": lambda value: "yes" if value else "",
    "count": lambda value: str(value or ""),
}
"""Formatter of a column's kind; a column of another kind shows its text."""


def shown_bytes(count: float) -> str:
    """Return a number of bytes with a decimal unit and three digits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.0f} TB" if count >= 999.5 else f"{count:.3g} TB"
