"""The panels of the dashboards: expressions over the series of docs/reference/metrics.md."""

from dataclasses import dataclass

RATE = "$__rate_interval"
"""Grafana's name for a range of at least four scrapes."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph. ``unit`` is Grafana's; ``queries`` are expressions, each with the name of its lines."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A page of panels; ``name`` is its file's."""

    name: str
    title: str
    panels: tuple[Panel, ...]


Query = tuple[str, str]
"""An expression, and the name of its lines."""


def _panel(title: str, unit: str, *queries: Query) -> Panel:
    return Panel(title, unit, queries)


def _sum(series: str, *by: str, matching: str = "") -> str:
    return f"sum by ({', '.join(by)}) (rate({series}{matching}[{RATE}]))"


def _lines(by: tuple[str, ...]) -> str:
    return " ".join(f"{{{{{label}}}}}" for label in by)


def _rate(series: str, *by: str, matching: str = "", line: str = "") -> Query:
    """Return what a counter grows by a second, a line for each value of some labels."""
    return _sum(series, *by, matching=matching), line or _lines(by)


def _mean(histogram: str, *by: str, line: str = "") -> Query:
    return f"{_sum(f'{histogram}_sum', *by)} / {_sum(f'{histogram}_count', *by)}", line or _lines(by)


def _quantile(share: float, histogram: str, *by: str, matching: str = "") -> Query:
    """Return a quantile, a line for each value of some labels, or one that is named after it."""
    rate = _sum(f"{histogram}_bucket", "le", *by, matching=matching)
    return f"histogram_quantile({share}, {rate})", _lines(by) or f"p{share * 100:.0f}"


def _quantiles(histogram: str) -> tuple[Query, Query]:
    return _quantile(0.5, histogram), _quantile(0.95, histogram)


_ANSWERED = "mint_gateway_http_request_seconds"
_ERRORS = f'sum(rate({_ANSWERED}_count{{status=~"5.."}}[{RATE}])) or vector(0)'
_HITS = "mint_loader_hits_total"
_INFERENCE = '{route=~"/v1/(chat/)?completions|/v1/messages|/v1/responses|/inference/v1/generate"}'

FLEET = Dashboard(
    "fleet",
    "MinT fleet",
    (
        _panel("Ready", "short", ("mint_ready", "{{component}} {{instance}}")),
        _panel(
            "Versions",
            "short",
            ("count by (component, version) (mint_build_info)", "{{component}} {{version}}"),
        ),
        _panel("Requests by status", "reqps", _rate(f"{_ANSWERED}_count", "status")),
        _panel("Share of 5xx", "percentunit", (f"({_ERRORS}) / sum(rate({_ANSWERED}_count[{RATE}]))", "5xx")),
        _panel("Answer time, p95", "s", _quantile(0.95, _ANSWERED, "route", matching=_INFERENCE)),
        _panel(
            "Time to first token by adapter tier, p95",
            "s",
            _quantile(0.95, "mint_loader_first_token_seconds", "tier"),
        ),
        _panel("Tokens", "short", _rate("mint_loader_tokens_total", "kind")),
        _panel(
            "Open requests",
            "short",
            ("mint_loader_requests_open", "engine {{instance}}"),
            ("mint_gateway_http_requests_open", "gateway {{instance}}"),
        ),
        _panel(
            "Sequences in the engine",
            "short",
            ("vllm:num_requests_running", "running {{instance}}"),
            ("vllm:num_requests_waiting", "waiting {{instance}}"),
        ),
        _panel("KV cache in use", "percentunit", ("vllm:kv_cache_usage_perc", "{{instance}}")),
        _panel("Engine requests by outcome", "reqps", _rate("mint_loader_requests_total", "outcome")),
        _panel("Refused with 429", "reqps", _rate("mint_loader_refusals_total", "instance")),
    ),
)

RESIDENCY = Dashboard(
    "residency",
    "MinT residency of adapters",
    (
        _panel("Requests by adapter tier", "reqps", _rate(_HITS, "tier")),
        _panel(
            "Slot hit ratio",
            "percentunit",
            (f'sum(rate({_HITS}{{tier="slot"}}[{RATE}])) / sum(rate({_HITS}[{RATE}]))', "slot"),
        ),
        _panel("Load by stage, p95", "s", _quantile(0.95, "mint_loader_load_seconds", "stage")),
        _panel("Cold queue", "short", ("sum by (priority) (mint_loader_queue_depth)", "{{priority}}")),
        _panel(
            "Wait in the cold queue, p95", "s", _quantile(0.95, "mint_loader_queue_wait_seconds", "priority")
        ),
        _panel("Wait for a slot", "s", *_quantiles("mint_loader_slot_wait_seconds")),
        _panel("Engine stall by a load, p99", "s", _quantile(0.99, "mint_loader_stall_seconds")),
        _panel(
            "Adapters",
            "short",
            ("sum(vllm:max_gpu_lora_adapters)", "slots"),
            ("sum(mint_loader_slots_used)", "in slots"),
            ("sum(mint_loader_residents)", "in host memory"),
        ),
        _panel("Host memory of adapters", "bytes", ("mint_loader_host_bytes", "{{instance}}")),
        _panel(
            "Evictions and failures",
            "ops",
            _rate("mint_loader_evictions_total", "instance", line="evicted {{instance}}"),
            _rate("mint_loader_failures_total", "instance", line="failed {{instance}}"),
        ),
        _panel("Corrected residency differences", "ops", _rate("mint_loader_discrepancies_total", "kind")),
        _panel(
            "Builder processes replaced",
            "ops",
            _rate("mint_loader_builder_ends_total", "instance", line="ended {{instance}}"),
            _rate("mint_loader_builder_hangs_total", "instance", line="hung {{instance}}"),
        ),
    ),
)

TRAINING = Dashboard(
    "training",
    "MinT training",
    (
        _panel("Steps of jobs", "ops", _rate("mint_trainer_steps_total", "outcome")),
        _panel("Step time, with export", "s", *_quantiles("mint_trainer_step_seconds")),
        _panel("Policies trained together, mean", "short", _mean("mint_trainer_batch_policies", "instance")),
        _panel("Trained tokens", "short", _rate("mint_trainer_tokens_total", "instance")),
        _panel("Operations", "ops", _rate("mint_trainer_operations_total", "kind", "outcome")),
        _panel("Lease of the base", "short", ("mint_trainer_lease_held", "{{instance}}")),
        _panel(
            "Policies moved between device and host", "ops", _rate("mint_trainer_swaps_total", "direction")
        ),
        _panel(
            "Share of time spent moving", "percentunit", _rate("mint_trainer_swap_seconds_total", "direction")
        ),
        _panel("Bytes moved", "Bps", _rate("mint_trainer_swap_bytes_total", "direction")),
        _panel("Snapshots", "Bps", _rate("mint_trainer_snapshot_bytes_total", "instance")),
        _panel("Exports by verdict of the registry", "ops", _rate("mint_registry_exports_total", "verdict")),
        _panel("Export check time", "s", *_quantiles("mint_registry_check_seconds")),
    ),
)

EVENTS = Dashboard(
    "events",
    "MinT events",
    (
        _panel("Deliveries by outcome", "ops", _rate("mint_dispatch_events_total", "outcome")),
        _panel(
            "Handled, by type",
            "ops",
            _rate("mint_dispatch_events_total", "type", matching='{outcome="handled"}'),
        ),
        _panel(
            "From delivery to acknowledgement, p95",
            "s",
            _quantile(0.95, "mint_dispatch_handler_seconds", "type"),
        ),
        _panel(
            "Failed and dead",
            "ops",
            _rate(
                "mint_dispatch_events_total",
                "type",
                "outcome",
                matching='{outcome=~"failed|dead|unanswered"}',
            ),
        ),
        _panel("Relayed from outboxes", "ops", _rate("mint_relay_events_total", "outcome")),
        _panel("Waiting in outboxes", "short", ("mint_relay_pending", "{{instance}}")),
        _panel("Age of the oldest waiting event", "s", ("mint_relay_oldest_seconds", "{{instance}}")),
        _panel("Webhook deliveries", "ops", _rate("mint_gateway_webhook_tries_total", "outcome")),
        _panel(
            "Revisions taken out of use",
            "ops",
            _rate("mint_registry_quarantines_total", "instance", line="quarantined"),
            _rate("mint_registry_faults_total", "fault"),
        ),
    ),
)

JOBS = Dashboard(
    "jobs",
    "MinT RL jobs",
    (
        _panel("Reward, mean of waves", "short", _mean("mint_rollout_reward_mean", "algorithm")),
        _panel("Waves", "ops", _rate("mint_rollout_waves_total", "algorithm")),
        _panel("Samples", "ops", _rate("mint_rollout_samples_total", "algorithm")),
        _panel(
            "Step time by phase, mean",
            "s",
            _mean("mint_rollout_sample_seconds", "algorithm", line="sample and score {{algorithm}}"),
            _mean("mint_trainer_step_seconds", "instance", line="train and export"),
            _mean("mint_registry_check_seconds", "instance", line="check"),
        ),
        _panel("Importance ratio error", "short", *_quantiles("mint_trainer_ratio_error")),
        _panel("Steps", "ops", _rate("mint_trainer_steps_total", "outcome")),
        _panel("Ended jobs", "ops", _rate("mint_rollout_jobs_total", "outcome")),
        _panel(
            "Waves cancelled, jobs revived",
            "ops",
            _rate("mint_rollout_waves_cancelled_total", "algorithm", line="cancelled {{algorithm}}"),
            _rate("mint_rollout_jobs_revived_total", "instance", line="revived"),
        ),
        _panel("Samples without a reward", "ops", _rate("mint_rollout_grader_errors_total", "kind")),
        _panel(
            "Answers by the previous revision during a switch",
            "ops",
            _rate("mint_gateway_revisions_behind_count", "instance"),
        ),
        _panel(
            "Revisions behind during a switch, p95",
            "short",
            _quantile(0.95, "mint_gateway_revisions_behind"),
        ),
        _panel("Alias moves by rules", "ops", _rate("mint_registry_rule_moves_total", "outcome")),
    ),
)

DASHBOARDS = (FLEET, RESIDENCY, TRAINING, EVENTS, JOBS)


def expressions(rate: str) -> dict[str, str]:
    """Return every expression by ``dashboard: panel: line``; ``rate`` is the range in place of Grafana's."""
    return {
        f"{dashboard.name}: {panel.title}: {line}": expression.replace(RATE, rate)
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
        for expression, line in panel.queries
    }
