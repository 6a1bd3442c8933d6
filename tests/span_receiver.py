"""A small OTLP/HTTP receiver: real exporters of real processes send it spans, and a test reads them."""

import gzip
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedSpan:
    """One span as it came over the wire; ids are hex, ``parent_id`` is empty for a root, times since 1970."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, str]
    is_error: bool
    events: tuple[str, ...]


class OtlpReceiver:
    """Listens on a free loopback port between ``with`` and its end; ``endpoint`` is what exporters get."""

    def __init__(self) -> None:
        self._spans: list[ReceivedSpan] = []
        self._changed = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver._take(_read_spans(body))  # a part of the same class
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Stay quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        """Start to listen."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def spans(self) -> tuple[ReceivedSpan, ...]:
        """Return what came so far."""
        with self._changed:
            return tuple(self._spans)

    def wait_for(
        self, condition: Callable[[Sequence[ReceivedSpan]], bool], *, timeout_seconds: float = 15
    ) -> tuple[ReceivedSpan, ...]:
        """Wait until the spans meet a condition and return them; AssertionError when they never do."""
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            while not condition(self._spans):
                left = deadline - time.monotonic()
                assert left > 0, f"not met by {[(span.service, span.name) for span in self._spans]}"
                self._changed.wait(left)
            return tuple(self._spans)

    def _take(self, spans: Sequence[ReceivedSpan]) -> None:
        with self._changed:
            self._spans.extend(spans)
            self._changed.notify_all()


def _read_spans(body: bytes) -> list[ReceivedSpan]:
    spans = []
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        names = {item.key: item.value.string_value for item in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                values = {item.key: item.value for item in span.attributes}
                spans.append(
                    ReceivedSpan(
                        service=names.get("service.name", ""),
                        name=span.name,
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex(),
                        start_ns=span.start_time_unix_nano,
                        end_ns=span.end_time_unix_nano,
                        attributes={
                            key: str(getattr(value, value.WhichOneof("value") or "string_value"))
                            for key, value in values.items()
                        },
                        is_error=span.status.code == span.status.STATUS_CODE_ERROR,
                        events=tuple(event.name for event in span.events),
                    )
                )
    return spans
