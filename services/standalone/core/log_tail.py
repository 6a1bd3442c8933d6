"""Formats the end of a part's log: services write JSON lines, other parts plain text."""

import msgspec

SHOWN_LINES = 12


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
