"""Start telemetry, once per process. Without a collector, spans go nowhere but trace ids still flow."""

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased

from mint_common.settings import TelemetrySettings
from mint_common.telemetry.logs import log_to_stdout

_EXPORT_TIMEOUT_SECONDS = 5
_FLUSH_TIMEOUT_MILLIS = 3000


def setup(settings: TelemetrySettings, *, service: str) -> None:
    """Log JSON lines to stdout and record spans; the tracer of the first call stays for the whole process."""
    log_to_stdout(service=service, level=settings.log_level)
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    resource = Resource({"service.name": service})
    # A span that is not sampled has its ids all the same, and costs a third.
    root = ALWAYS_ON if settings.otlp_endpoint else ALWAYS_OFF
    provider = TracerProvider(sampler=ParentBased(root), resource=resource)
    if settings.otlp_endpoint:
        # A service without a collector starts sooner without it.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        address = settings.otlp_endpoint.rstrip("/") + "/v1/traces"
        exporter = OTLPSpanExporter(endpoint=address, timeout=_EXPORT_TIMEOUT_SECONDS)
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    trace.set_tracer_provider(provider)


def flush() -> None:
    """Send the spans that have ended; blocks for a few seconds at most."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.force_flush(_FLUSH_TIMEOUT_MILLIS)
