"""Spans, and the W3C trace context in headers of HTTP requests and bus messages, with the request's id.

The id of a client's request travels beside the trace context: to other services, to handlers of events and
into each log line.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import cast

from opentelemetry import context, trace
from opentelemetry.trace import Link, Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mint_common.ids import new_id

Attributes = Mapping[str, str | int | float | bool]
_NONE: Attributes = {}

REQUEST_HEADER = "x-request-id"
_PROPAGATOR = TraceContextTextMapPropagator()
_REQUEST = context.create_key("mint-request-id")
_SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=+/-]{0,127}")
"""Ids that a header, a log line and a URL can carry as they are."""


def inject(headers: dict[str, str]) -> dict[str, str]:
    """Add the current trace context and request id to some headers and return them."""
    _PROPAGATOR.inject(headers)
    if found := request_id():
        headers[REQUEST_HEADER] = found
    return headers


@contextmanager
def extracted(headers: Mapping[str, str] | None, *, request: str = "") -> Iterator[None]:
    """Continue the trace and the request that the headers name, if they name one, inside the body.

    ``request`` is the request's id if not that of the headers.
    """
    found = _PROPAGATOR.extract(headers or {}, context=context.Context())
    token = context.attach(context.set_value(_REQUEST, request or _named(headers or {}), found))
    try:
        yield
    finally:
        context.detach(token)


def links_to(headers: Mapping[str, str]) -> Sequence[Link]:
    """Return a link to the span that the headers name, if they name one."""
    named = trace.get_current_span(_PROPAGATOR.extract(headers, context=context.Context()))
    return [Link(named.get_span_context())] if named.get_span_context().is_valid else []


@contextmanager
def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    links: Sequence[Link] = (),
    attributes: Attributes = _NONE,
) -> Iterator[Span]:
    """Record a span around the body, and the exception that leaves it."""
    with trace.use_span(
        start_span(name, kind=kind, links=links, attributes=attributes), end_on_exit=True
    ) as current:
        yield current


def start_span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    links: Sequence[Link] = (),
    attributes: Attributes = _NONE,
) -> Span:
    """Return a span that its owner ends.

    In a trace that is not collected it is the surrounding span, which has the ids and cannot end.
    """
    around = trace.get_current_span()
    found = around.get_span_context()
    if found.is_valid and not found.trace_flags.sampled:
        return around
    return _tracer().start_span(name, kind=kind, links=links, attributes=attributes)


@cache
def _tracer() -> trace.Tracer:
    """Return the tracer of this process; one from before the set-up delegates to the later one."""
    return trace.get_tracer("mint")


def annotate(attributes: Mapping[str, str | int | Sequence[str]]) -> None:
    """Add attributes to the current span."""
    trace.get_current_span().set_attributes(attributes)


def is_recorded() -> bool:
    """Return whether anybody will see the current span."""
    return trace.get_current_span().is_recording()


def trace_id() -> str:
    """Return the current trace's id as 32 hex digits, or the empty text outside of any trace."""
    current = trace.get_current_span().get_span_context()
    return format(current.trace_id, "032x") if current.is_valid else ""


def request_id() -> str:
    """Return the id of the current request, or the empty text outside of any request."""
    return cast(str, context.get_value(_REQUEST) or "")


def request_of(headers: Mapping[str, str]) -> str:
    """Return the id of a client's request: the one that its headers name if it is sane, else a new one."""
    return _named(headers) or new_id("req")


def _named(headers: Mapping[str, str]) -> str:
    named = headers.get(REQUEST_HEADER, "")
    return named if _SANE.fullmatch(named) else ""
