"""What the loader counts; exported by `/metrics`."""

from prometheus_client import Counter, Gauge, Histogram

LOAD_SECONDS = Histogram(
    "mint_loader_load_seconds",
    "Seconds of an adapter's load, by stage",
    ["stage"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
)
QUEUE_DEPTH = Gauge("mint_loader_queue_depth", "Loads that wait in the cold queue")
REFUSALS = Counter("mint_loader_refusals_total", "Loads refused because the queue or the engine was full")
HITS = Counter("mint_loader_hits_total", "Requests by the tier in which they found their adapter", ["tier"])
EVICTIONS = Counter("mint_loader_evictions_total", "Adapters taken off the engine")
FAILURES = Counter("mint_loader_failures_total", "Adapters that can't be loaded")
RESIDENTS = Gauge("mint_loader_residents", "Adapters on the engine")
REQUESTS = Counter("mint_loader_requests_total", "Generation requests by outcome", ["outcome"])
TOKENS = Counter("mint_loader_tokens_total", "Tokens by kind", ["kind"])
