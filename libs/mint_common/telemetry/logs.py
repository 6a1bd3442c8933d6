"""Logs as JSON lines: a constant message with fields apart, joined to traces by id.

Secrets do not reach the output: fields with a secret's or payload's name are blanked, credentials in URLs and
API keys are cut out of any text, and long texts are cut short. The text of an unexpected error may quote what
a tenant sent: where it may, `mint_common.errors.trace_of` is logged instead of the error.
"""

import logging
import re
import sys
from datetime import UTC, datetime
from typing import TextIO

import msgspec
from opentelemetry import trace

from mint_common.telemetry.tracing import request_id

MAX_TEXT = 4000

_SECRET_NAME = re.compile(
    r"(^|_)(tokens?|secrets?|passwords?|keys?|dsn|authorization|cookie|prompts?|texts?|messages|content|body|payload)$"
)
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")
_API_KEY = re.compile(r"\btml-[A-Za-z0-9_-]+|(?<=Bearer )\S+")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OWN_LOGGERS = ("mint_common", "services")


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": _clean(record.getMessage()),
        }
        current = trace.get_current_span().get_span_context()
        if current.is_valid:
            line["trace_id"] = format(current.trace_id, "032x")
            line["span_id"] = format(current.span_id, "016x")
        if found := request_id():
            line["request_id"] = _clean(found)
        for name, value in vars(record).items():
            if name not in _STANDARD and name not in line:
                line[name] = _plain(name, value)
        if record.exc_info:
            line["exception"] = _clean(self.formatException(record.exc_info), keep_end=True)
        return msgspec.json.encode(line).decode()


def log_to_stdout(*, service: str, level: str, stream: TextIO | None = None) -> None:
    """Send all logs of this process to stdout; other libraries speak from WARNING up only."""
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h.formatter, JsonFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in _OWN_LOGGERS:
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(capture=True)


def _plain(name: str, value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_NAME.search(name.lower()):
        return "[hidden]"
    return _clean(str(value))


def _clean(text: str, *, keep_end: bool = False) -> str:
    text = text.encode(errors="replace").decode()  # half a surrogate pair has no UTF-8
    text = _API_KEY.sub("[hidden]", _URL_CREDENTIALS.sub("[hidden]@", text))
    if len(text) <= MAX_TEXT:
        return text
    return "..." + text[-MAX_TEXT:] if keep_end else text[:MAX_TEXT] + "..."
