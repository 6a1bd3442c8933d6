"""Spans and the context that travels in headers."""

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from mint_common.telemetry.tracing import extracted, inject, links_to, request_id, request_of, span, trace_id


@pytest.fixture(scope="module")
def provider() -> TracerProvider:
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    return provider


@pytest.fixture
def spans(provider: TracerProvider) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


def test_a_span_has_its_attributes_and_parent(spans: InMemorySpanExporter) -> None:
    with span("outer") as outer, span("inner", kind=SpanKind.CLIENT, attributes={"policy_id": "p", "n": 3}):
        pass
    inner = spans.get_finished_spans()[0]
    assert inner.attributes == {"policy_id": "p", "n": 3}
    assert inner.kind is SpanKind.CLIENT
    assert inner.parent is not None
    assert inner.parent.span_id == outer.get_span_context().span_id


def test_an_exception_is_recorded_and_passes(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="no good"), span("work"):
        raise ValueError("no good")
    (finished,) = spans.get_finished_spans()
    assert finished.status.status_code is StatusCode.ERROR
    assert [event.name for event in finished.events] == ["exception"]


def test_the_trace_goes_on_where_its_headers_arrive(spans: InMemorySpanExporter) -> None:
    with span("here") as here:
        headers = inject({"other": "kept"})
    assert headers["other"] == "kept"
    with extracted(headers), span("there"):
        assert trace_id() == format(here.get_span_context().trace_id, "032x")
    there = spans.get_finished_spans()[1]
    assert there.parent is not None
    assert there.parent.span_id == here.get_span_context().span_id
    assert there.parent.is_remote


@pytest.mark.parametrize("headers", [None, {}, {"traceparent": "nonsense"}, {"traceparent": "00-0-0-00"}])
def test_headers_without_a_trace_start_a_new_one(
    provider: TracerProvider, headers: dict[str, str] | None
) -> None:
    with span("unrelated") as unrelated, extracted(headers):
        assert trace_id() == ""
        with span("fresh") as fresh:
            assert fresh.get_span_context().trace_id != unrelated.get_span_context().trace_id
            assert fresh.parent is None  # type: ignore[attr-defined]  # a span of the SDK has it
        assert inject({}) == {}


def test_a_trace_that_nobody_collects_goes_on_without_spans(spans: InMemorySpanExporter) -> None:
    headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}
    with extracted(headers), span("work") as work:
        assert not work.is_recording()
        assert trace_id() == "0af7651916cd43dd8448eb211c80319c"
        assert inject({}) == headers
    assert not spans.get_finished_spans()


def test_a_span_names_a_trace_that_it_does_not_continue(spans: InMemorySpanExporter) -> None:
    caller = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{caller}-b7ad6b7169203331-00"}
    with extracted(None), span("own", links=links_to(headers)):
        own = trace_id()
    (recorded,) = spans.get_finished_spans()
    (link,) = recorded.links
    assert format(link.context.trace_id, "032x") == caller != own
    assert recorded.parent is None
    assert links_to({}) == links_to({"traceparent": "nonsense"}) == []


def test_outside_of_a_trace_there_is_no_id() -> None:
    assert trace_id() == ""
    assert inject({}) == {}


def test_the_id_of_a_request_goes_on_where_its_headers_arrive() -> None:
    with extracted({}, request="req-1"):
        headers = inject({})
        assert (headers, request_id()) == ({"x-request-id": "req-1"}, "req-1")
    assert request_id() == ""
    with extracted(headers):
        assert request_id() == "req-1"


@pytest.mark.parametrize("named", ["a", "3f7c-11/x", "a" * 128])
def test_a_sane_id_is_the_client_s(named: str) -> None:
    assert request_of({"x-request-id": named}) == named


@pytest.mark.parametrize("named", ["", "a" * 129, "two words", "a\nb", "-x", 'say "a"', "\xe9"])
def test_an_id_that_is_not_sane_is_replaced(named: str) -> None:
    made = request_of({"x-request-id": named})
    assert made.startswith("req_")
    assert made != request_of({"x-request-id": named})
    with extracted({"x-request-id": named}):
        assert request_id() == ""
