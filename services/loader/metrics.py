"""What the loader counts; exported by `/metrics`."""

from prometheus_client import Counter, Gauge, Histogram

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
REQUESTS = Counter(
    "mint_loader_requests_total",
    "Generation requests by outcome: finished, aborted (the client left), or the error code",
    ["outcome"],
)
TOKENS = Counter("mint_loader_tokens_total", "Tokens by kind: prompt, generated", ["kind"])


def observe_load(stage: str, seconds: float) -> None:
    """Count what a stage of a load took."""
    LOAD_SECONDS.labels(stage=stage).observe(seconds)
