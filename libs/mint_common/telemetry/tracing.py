"""Spans, and the W3C trace context in headers of HTTP requests and bus messages."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

Attribute = str | int | float | bool

_PROPAGATOR = TraceContextTextMapPropagator()


def inject(headers: dict[str, str]) -> dict[str, str]:
    """Add the current trace context to some headers and return them."""
    _PROPAGATOR.inject(headers)
    return headers


@contextmanager
def extracted(headers: Mapping[str, str] | None) -> Iterator[None]:
    """Continue the trace that the headers name, if they name one, inside the body."""
    token = context.attach(_PROPAGATOR.extract(headers or {}, context=context.Context()))
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def span(name: str, *, kind: SpanKind = SpanKind.INTERNAL, **attributes: Attribute) -> Iterator[Span]:
    """Record a span around the body, and the exception that leaves it."""
    with trace.use_span(start_span(name, kind=kind, **attributes), end_on_exit=True) as current:
        yield current


def start_span(name: str, *, kind: SpanKind = SpanKind.INTERNAL, **attributes: Attribute) -> Span:
    """Return a span that its owner ends.

    In a trace that is not collected it is the surrounding span, which has the ids and cannot end.
    """
    around = trace.get_current_span()
    found = around.get_span_context()
    if found.is_valid and not found.trace_flags.sampled:
        return around
    return _tracer().start_span(name, kind=kind, attributes=attributes)


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
