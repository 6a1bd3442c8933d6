"""The loader's metrics at `/metrics`."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mint_common.ids import Digest
from mint_common.telemetry.series import begin
from services.loader.core.cold_queue import Priority

LOAD_SECONDS = Histogram(
    "mint_loader_load_seconds",
    "Seconds of one adapter's load, by stage: queue, fetch, check, layout, activate",
    ["stage"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
)
STALL_SECONDS = Histogram(
    "mint_loader_stall_seconds",
    "Seconds that the engine stood still to map an adapter or to copy one slice of it",
    buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
)
QUEUE_DEPTH = Gauge("mint_loader_queue_depth", "Loads that wait in the cold queue", ["priority"])
QUEUE_OLDEST_SECONDS = Gauge(
    "mint_loader_queue_oldest_seconds",
    "Seconds that the oldest load in the cold queue has waited; 0 without one",
)
QUEUE_WAIT_SECONDS = Histogram(
    "mint_loader_queue_wait_seconds",
    "Seconds that a load waited in the cold queue",
    ["priority"],
    buckets=(0.001, 0.01, 0.1, 0.3, 1, 3, 10, 30, 100),
)
SLOT_WAIT_SECONDS = Histogram(
    "mint_loader_slot_wait_seconds",
    "Seconds that a request waited for a slot for its adapter; not observed when it had one",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
)
REFUSALS = Counter(
    "mint_loader_refusals_total", "Requests and loads refused because a queue or the engine was full"
)
HITS = Counter(
    "mint_loader_hits_total", "Requests by where their adapter was: slot, host, disk, remote", ["tier"]
)
EVICTIONS = Counter("mint_loader_evictions_total", "Adapters removed from the engine")
FAILURES = Counter("mint_loader_failures_total", "Adapters that failed to load")
RESIDENTS = Gauge("mint_loader_residents", "Adapters on the engine")
HOST_BYTES = Gauge("mint_loader_host_bytes", "Bytes of host memory that adapters take or have reserved")
SLOTS_USED = Gauge("mint_loader_slots_used", "Engine slots that hold an adapter")
DISCREPANCIES = Counter(
    "mint_loader_discrepancies_total",
    "Corrected differences between loader and engine: lost (the engine no longer held the adapter), "
    "stray (it held one unknown to the loader)",
    ["kind"],
)
BUILDER_ENDS = Counter("mint_loader_builder_ends_total", "Builder processes that ended and were replaced")
BUILDER_HANGS = Counter(
    "mint_loader_builder_hangs_total", "Builder processes that were killed because they did not answer"
)
REQUESTS_OPEN = Gauge(
    "mint_loader_requests_open", "Generation requests without their end, waiting ones included"
)
FIRST_TOKEN_SECONDS = Histogram(
    "mint_loader_first_token_seconds",
    "Seconds from a streamed request to its first token, by where its adapter was: base (none), slot, host, "
    "stored",
    ["tier"],
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
)
REQUESTS = Counter(
    "mint_loader_requests_total",
    "Generation requests by outcome: finished, aborted (the client left), or the error code",
    ["outcome"],
)
TOKENS = Counter("mint_loader_tokens_total", "Tokens by kind: prompt, generated", ["kind"])

_PRIORITIES = [priority.name.lower() for priority in Priority]
begin(LOAD_SECONDS, ["queue", "fetch", "check", "layout", "activate"])
begin(QUEUE_DEPTH, _PRIORITIES)
begin(QUEUE_WAIT_SECONDS, _PRIORITIES)
begin(HITS, ["slot", "host", "disk", "remote"])
begin(DISCREPANCIES, ["lost", "stray"])
begin(FIRST_TOKEN_SECONDS, ["base", "slot", "host", "stored"])
begin(REQUESTS, ["finished", "aborted"])
begin(TOKENS, ["prompt", "generated"])

ADAPTER_LOAD_SECONDS = Histogram(
    "vllm:lora_adapter_load_seconds",
    "Seconds of one adapter's load, from its turn in the cold queue to host memory",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
    registry=None,  # vLLM takes every metric of that prefix out of the registry when an engine starts
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRow:
    """Metrics of one adapter on the engine."""

    digest: Digest
    in_slot: bool
    pinned: bool
    rank: int


class LoadedAdapters(Collector):
    """The adapters on the engine, under the names proposed for vLLM's own server.

    One series per adapter, so at most as many as host memory holds. Source of the names:
    https://github.com/vllm-project/vllm/issues/54830 .
    """

    def __init__(self, rows: Callable[[], Iterable[LoadedRow]], *, slots: int) -> None:
        self._rows = rows
        self._slots = slots

    def describe(self) -> Iterable[Metric]:
        """Return nothing: several loaders of one process, as in tests, have the same names."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return the series as they are now."""
        rows = list(self._rows())
        loaded = GaugeMetricFamily(
            "vllm:lora_adapter_loaded",
            "1 for each adapter: its digest, and whether it is in a slot (gpu) or in host memory alone (cpu)",
            labels=["adapter_name", "level", "pinned", "rank"],
        )
        for row in rows:
            level = "gpu" if row.in_slot else "cpu"
            loaded.add_metric([row.digest, level, str(row.pinned).lower(), str(row.rank)], 1)
        in_slots = sum(row.in_slot for row in rows)
        yield loaded
        yield GaugeMetricFamily("vllm:num_gpu_loaded_lora_adapters", "Adapters in slots", in_slots)
        yield GaugeMetricFamily("vllm:num_cpu_loaded_lora_adapters", "Adapters in host memory", len(rows))
        yield GaugeMetricFamily("vllm:max_gpu_lora_adapters", "Slots of the engine", self._slots)
        yield from ADAPTER_LOAD_SECONDS.collect()


@contextmanager
def exported(rows: Callable[[], Iterable[LoadedRow]], *, slots: int) -> Iterator[None]:
    """Export the adapters on an engine for the length of the block."""
    collector = LoadedAdapters(rows, slots=slots)
    REGISTRY.register(collector)
    try:
        yield
    finally:
        REGISTRY.unregister(collector)


def observe_load(stage: str, seconds: float) -> None:
    """Count the seconds of a stage of a load."""
    LOAD_SECONDS.labels(stage=stage).observe(seconds)
