"""Formats the end of a part's log: services write JSON lines, other parts plain text."""

import msgspec

SHOWN_LINES = 12
_HIDDEN = ("service", "logger", "trace_id", "span_id")


class _Record(msgspec.Struct, frozen=True):
    level: str
    message: str
    exception: str = ""


def readable(log: str) -> str:
    """Return the last lines of a log, JSON records as ``LEVEL message`` and the traceback they hold."""
    lines = [line for written in log.splitlines() for line in _read(written)]
    return "\n".join(lines[-SHOWN_LINES:])


def _read(line: str) -> list[str]:
    try:
        record = msgspec.json.decode(line, type=_Record)
    except msgspec.DecodeError:
        return [line]
    return [f"{record.level} {record.message}", *record.exception.splitlines()]


def told_line(line: str) -> list[str]:
    """Return a line of a log for people: of a JSON record its time, level, message and fields."""
    try:
        record = msgspec.json.decode(line, type=dict[str, object])
        head = [str(record.pop(name)) for name in ("time", "level", "message")]
    except (msgspec.DecodeError, KeyError):
        return [line]
    trace = str(record.pop("exception", "")).splitlines()
    fields = (f"{name}={value}" for name, value in record.items() if name not in _HIDDEN)
    return [" ".join((*head, *fields)), *trace]
