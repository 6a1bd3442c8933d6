"""Logs: one JSON object a line, joined to traces, without secrets."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider

from mint_common.telemetry.logs import MAX_TEXT, JsonFormatter, log_to_stdout
from mint_common.telemetry.tracing import extracted

log = logging.getLogger("services.baker.test")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root, own = logging.getLogger(), [logging.getLogger(name) for name in ("mint_common", "services")]
    before = (root.handlers[:], root.level, [logger.level for logger in own])
    stream = io.StringIO()
    log_to_stdout(service="baker", level="INFO", stream=stream)
    yield stream
    root.handlers[:], root.level = before[:2]
    logging.captureWarnings(capture=False)
    for logger, level in zip(own, before[2], strict=True):
        logger.setLevel(level)


def read(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_its_fields_apart(stream: io.StringIO) -> None:
    log.info("bread baked", extra={"loaves": 3, "seconds": 0.5, "policy_id": "pol_1", "where": None})
    (line,) = read(stream)
    assert line.pop("time").endswith("+00:00")  # type: ignore[attr-defined]  # it is a text
    assert line == {
        "level": "INFO",
        "service": "baker",
        "logger": "services.baker.test",
        "message": "bread baked",
        "loaves": 3,
        "seconds": 0.5,
        "policy_id": "pol_1",
        "where": None,
    }


def test_setting_up_again_does_not_double_the_lines(stream: io.StringIO) -> None:
    log_to_stdout(service="baker", level="INFO", stream=stream)
    log.info("once")
    assert len(read(stream)) == 1


def test_other_libraries_speak_from_warning_up(stream: io.StringIO) -> None:
    logging.getLogger("httpx").info("HTTP Request: GET http://x/?key=1")
    logging.getLogger("httpx").warning("trouble")
    log.debug("too fine")
    assert [line["message"] for line in read(stream)] == ["trouble"]


def test_a_line_names_the_span_it_belongs_to(stream: io.StringIO) -> None:
    with TracerProvider().get_tracer("t").start_as_current_span("s") as span:
        log.info("inside")
    log.info("outside")
    inside, outside = read(stream)
    assert inside["trace_id"] == format(span.get_span_context().trace_id, "032x")
    assert inside["span_id"] == format(span.get_span_context().span_id, "016x")
    assert "trace_id" not in outside


def test_a_line_names_the_request_it_belongs_to(stream: io.StringIO) -> None:
    with extracted({}, request="req-1"):
        log.info("inside", extra={"request_id": "another"})
    log.info("outside")
    inside, outside = read(stream)
    assert inside["request_id"] == "req-1"
    assert "request_id" not in outside


def test_an_exception_is_told_in_one_line(stream: io.StringIO) -> None:
    try:
        int("postgresql://mint:hunter2@db/mint")
    except ValueError:
        log.exception("failed")
    (line,) = read(stream)
    assert "postgresql://[hidden]@db/mint" in str(line["exception"])
    assert "test_logs.py" in str(line["exception"])


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "internal_token",
        "api_key",
        "key",
        "password",
        "dsn",
        "prompt",
        "text",
        "messages",
        "secret_key",
    ],
)
def test_fields_named_like_secrets_or_payloads_are_hidden(stream: io.StringIO, name: str) -> None:
    log.info("x", extra={name: "hunter2"})
    assert "hunter2" not in stream.getvalue()
    assert read(stream)[0][name] == "[hidden]"


def test_counts_are_not_secrets(stream: io.StringIO) -> None:
    log.info("x", extra={"prompt_tokens": 12, "blob_uri": "a/b", "policy_id": "p"})
    line = read(stream)[0]
    assert (line["prompt_tokens"], line["blob_uri"], line["policy_id"]) == (12, "a/b", "p")


@pytest.mark.parametrize(
    "text",
    [
        "nats://tok:hunter2@h:1",
        "Authorization: Bearer hunter2",
        "key tml-hunter2",
        "x nats://hunter2@127.0.0.1",
    ],
)
def test_secrets_inside_texts_are_cut_out(stream: io.StringIO, text: str) -> None:
    log.warning("cannot connect: %s", text, extra={"problem": text})
    assert "hunter2" not in stream.getvalue()


def test_long_texts_are_cut_short(stream: io.StringIO) -> None:
    log.info("x", extra={"problem": "y" * 100_000})
    assert len(str(read(stream)[0]["problem"])) <= MAX_TEXT + 3


@given(st.text(), st.dictionaries(st.from_regex(r"f_[a-z]{1,8}", fullmatch=True), st.text() | st.floats()))
def test_whatever_is_logged_is_one_line_of_json(message: str, fields: dict[str, object]) -> None:
    record = logging.makeLogRecord({"msg": message, "name": "x", "levelname": "INFO", **fields})
    line = JsonFormatter("baker").format(record)
    assert "\n" not in line
    assert json.loads(line)["service"] == "baker"


def test_unencodable_text_does_not_lose_the_line() -> None:
    record = logging.makeLogRecord({"msg": "half \ud800", "problem": "\udfff"})
    assert json.loads(JsonFormatter("baker").format(record))["message"].startswith("half ")
