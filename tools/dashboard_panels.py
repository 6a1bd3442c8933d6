"""The panels of the dashboards: expressions over the series of docs/metrics.md."""

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


def _rate(series: str, *by: str, matching: str = "") -> str:
    return f"sum by ({', '.join(by)}) (rate({series}{matching}[{RATE}]))"


def _quantile(share: float, histogram: str, *by: str, matching: str = "") -> str:
    rate = _rate(f"{histogram}_bucket", "le", *by, matching=matching)
    return f"histogram_quantile({share}, {rate})"


def _mean(histogram: str, *by: str) -> str:
    return f"{_rate(f'{histogram}_sum', *by)} / {_rate(f'{histogram}_count', *by)}"


def _quantiles(histogram: str) -> tuple[tuple[str, str], ...]:
    return ((_quantile(0.5, histogram), "p50"), (_quantile(0.95, histogram), "p95"))


_ANSWERED = "mint_gateway_http_request_seconds"
_ERRORS = f'sum(rate({_ANSWERED}_count{{status=~"5.."}}[{RATE}])) or vector(0)'
_HITS = "mint_loader_hits_total"
_INFERENCE = '{route=~"/v1/(chat/)?completions|/v1/messages|/v1/responses|/inference/v1/generate"}'

FLEET = Dashboard(
    "fleet",
    "MinT fleet",
    (
        Panel("Ready", "short", (("mint_ready", "{{component}} {{instance}}"),)),
        Panel(
            "Versions",
            "short",
            (("count by (component, version) (mint_build_info)", "{{component}} {{version}}"),),
        ),
        Panel("Requests by status", "reqps", ((_rate(f"{_ANSWERED}_count", "status"), "{{status}}"),)),
        Panel(
            "Share of 5xx",
            "percentunit",
            ((f"({_ERRORS}) / sum(rate({_ANSWERED}_count[{RATE}]))", "5xx"),),
        ),
        Panel(
            "Time to the end of an answer, p95",
            "s",
            ((_quantile(0.95, _ANSWERED, "route", matching=_INFERENCE), "{{route}}"),),
        ),
        Panel(
            "Time to first token, p95, by where the adapter was",
            "s",
            ((_quantile(0.95, "mint_loader_first_token_seconds", "tier"), "{{tier}}"),),
        ),
        Panel("Tokens", "short", ((_rate("mint_loader_tokens_total", "kind"), "{{kind}}"),)),
        Panel(
            "Open requests",
            "short",
            (
                ("mint_loader_requests_open", "engine {{instance}}"),
                ("mint_gateway_http_requests_open", "gateway {{instance}}"),
            ),
        ),
        Panel(
            "Sequences in the engine",
            "short",
            (
                ("vllm:num_requests_running", "running {{instance}}"),
                ("vllm:num_requests_waiting", "waiting {{instance}}"),
            ),
        ),
        Panel("KV cache in use", "percentunit", (("vllm:kv_cache_usage_perc", "{{instance}}"),)),
        Panel(
            "Engine requests by outcome",
            "reqps",
            ((_rate("mint_loader_requests_total", "outcome"), "{{outcome}}"),),
        ),
        Panel(
            "Refused with 429", "reqps", ((_rate("mint_loader_refusals_total", "instance"), "{{instance}}"),)
        ),
    ),
)

RESIDENCY = Dashboard(
    "residency",
    "MinT residency of adapters",
    (
        Panel(
            "Requests by where their adapter was",
            "reqps",
            ((_rate("mint_loader_hits_total", "tier"), "{{tier}}"),),
        ),
        Panel(
            "Share found in a slot",
            "percentunit",
            (
                (
                    f'sum(rate({_HITS}{{tier="slot"}}[{RATE}])) / sum(rate({_HITS}[{RATE}]))',
                    "slot",
                ),
            ),
        ),
        Panel(
            "Load by stage, p95", "s", ((_quantile(0.95, "mint_loader_load_seconds", "stage"), "{{stage}}"),)
        ),
        Panel("Cold queue", "short", (("sum by (priority) (mint_loader_queue_depth)", "{{priority}}"),)),
        Panel(
            "Wait in the cold queue, p95",
            "s",
            ((_quantile(0.95, "mint_loader_queue_wait_seconds", "priority"), "{{priority}}"),),
        ),
        Panel("Wait for a slot", "s", _quantiles("mint_loader_slot_wait_seconds")),
        Panel("Engine held up by a load, p99", "s", ((_quantile(0.99, "mint_loader_stall_seconds"), "p99"),)),
        Panel(
            "Adapters",
            "short",
            (
                ("sum(vllm:max_gpu_lora_adapters)", "slots"),
                ("sum(mint_loader_slots_used)", "in slots"),
                ("sum(mint_loader_residents)", "in host memory"),
            ),
        ),
        Panel("Host memory of adapters", "bytes", (("mint_loader_host_bytes", "{{instance}}"),)),
        Panel(
            "Evictions and failures",
            "ops",
            (
                (_rate("mint_loader_evictions_total", "instance"), "evicted {{instance}}"),
                (_rate("mint_loader_failures_total", "instance"), "failed {{instance}}"),
            ),
        ),
        Panel(
            "Corrected differences to the engine",
            "ops",
            ((_rate("mint_loader_discrepancies_total", "kind"), "{{kind}}"),),
        ),
        Panel(
            "Builder processes replaced",
            "ops",
            (
                (_rate("mint_loader_builder_ends_total", "instance"), "ended {{instance}}"),
                (_rate("mint_loader_builder_hangs_total", "instance"), "hung {{instance}}"),
            ),
        ),
    ),
)

TRAINING = Dashboard(
    "training",
    "MinT training",
    (
        Panel("Steps of jobs", "ops", ((_rate("mint_trainer_steps_total", "outcome"), "{{outcome}}"),)),
        Panel("One step, export included", "s", _quantiles("mint_trainer_step_seconds")),
        Panel(
            "Policies trained together, mean",
            "short",
            ((_mean("mint_trainer_batch_policies", "instance"), "{{instance}}"),),
        ),
        Panel("Trained tokens", "short", ((_rate("mint_trainer_tokens_total", "instance"), "{{instance}}"),)),
        Panel(
            "Operations",
            "ops",
            ((_rate("mint_trainer_operations_total", "kind", "outcome"), "{{kind}} {{outcome}}"),),
        ),
        Panel("Lease of the base", "short", (("mint_trainer_lease_held", "{{instance}}"),)),
        Panel(
            "Policies moved between device and host",
            "ops",
            ((_rate("mint_trainer_swaps_total", "direction"), "{{direction}}"),),
        ),
        Panel(
            "Share of time spent moving",
            "percentunit",
            ((_rate("mint_trainer_swap_seconds_total", "direction"), "{{direction}}"),),
        ),
        Panel(
            "Bytes moved", "Bps", ((_rate("mint_trainer_swap_bytes_total", "direction"), "{{direction}}"),)
        ),
        Panel(
            "Snapshots", "Bps", ((_rate("mint_trainer_snapshot_bytes_total", "instance"), "{{instance}}"),)
        ),
        Panel(
            "Exports by verdict of the registry",
            "ops",
            ((_rate("mint_registry_exports_total", "verdict"), "{{verdict}}"),),
        ),
        Panel("Check of an export", "s", _quantiles("mint_registry_check_seconds")),
    ),
)

EVENTS = Dashboard(
    "events",
    "MinT events",
    (
        Panel(
            "Deliveries by outcome", "ops", ((_rate("mint_dispatch_events_total", "outcome"), "{{outcome}}"),)
        ),
        Panel(
            "Handled, by type",
            "ops",
            ((_rate("mint_dispatch_events_total", "type", matching='{outcome="handled"}'), "{{type}}"),),
        ),
        Panel(
            "From delivery to acknowledgement, p95",
            "s",
            ((_quantile(0.95, "mint_dispatch_handler_seconds", "type"), "{{type}}"),),
        ),
        Panel(
            "Failed and dead",
            "ops",
            (
                (
                    _rate(
                        "mint_dispatch_events_total",
                        "type",
                        "outcome",
                        matching='{outcome=~"failed|dead|unanswered"}',
                    ),
                    "{{type}} {{outcome}}",
                ),
            ),
        ),
        Panel(
            "Relayed from outboxes", "ops", ((_rate("mint_relay_events_total", "outcome"), "{{outcome}}"),)
        ),
        Panel("Waiting in outboxes", "short", (("mint_relay_pending", "{{instance}}"),)),
        Panel("Age of the oldest that waits", "s", (("mint_relay_oldest_seconds", "{{instance}}"),)),
        Panel(
            "Webhook deliveries",
            "ops",
            ((_rate("mint_gateway_webhook_tries_total", "outcome"), "{{outcome}}"),),
        ),
        Panel(
            "Revisions taken out of use",
            "ops",
            (
                (_rate("mint_registry_quarantines_total", "instance"), "quarantined"),
                (_rate("mint_registry_faults_total", "fault"), "{{fault}}"),
            ),
        ),
    ),
)

JOBS = Dashboard(
    "jobs",
    "MinT RL jobs",
    (
        Panel(
            "Reward, mean of waves",
            "short",
            ((_mean("mint_rollout_reward_mean", "algorithm"), "{{algorithm}}"),),
        ),
        Panel("Waves", "ops", ((_rate("mint_rollout_waves_total", "algorithm"), "{{algorithm}}"),)),
        Panel("Samples", "ops", ((_rate("mint_rollout_samples_total", "algorithm"), "{{algorithm}}"),)),
        Panel(
            "Where the time of a step goes, mean",
            "s",
            (
                (_mean("mint_rollout_sample_seconds", "algorithm"), "sample and score {{algorithm}}"),
                (_mean("mint_trainer_step_seconds", "instance"), "train and export"),
                (_mean("mint_registry_check_seconds", "instance"), "check"),
            ),
        ),
        Panel(
            "Distance of the importance ratio from 1",
            "short",
            _quantiles("mint_trainer_ratio_error"),
        ),
        Panel("Steps", "ops", ((_rate("mint_trainer_steps_total", "outcome"), "{{outcome}}"),)),
        Panel("Jobs that ended", "ops", ((_rate("mint_rollout_jobs_total", "outcome"), "{{outcome}}"),)),
        Panel(
            "Waves cancelled, jobs revived",
            "ops",
            (
                (_rate("mint_rollout_waves_cancelled_total", "algorithm"), "cancelled {{algorithm}}"),
                (_rate("mint_rollout_jobs_revived_total", "instance"), "revived"),
            ),
        ),
        Panel(
            "Samples without a reward",
            "ops",
            ((_rate("mint_rollout_grader_errors_total", "kind"), "{{kind}}"),),
        ),
        Panel(
            "Answers by a former revision while the new one loads",
            "ops",
            ((_rate("mint_gateway_revisions_behind_count", "instance"), "{{instance}}"),),
        ),
        Panel(
            "Revisions between that and the new one, p95",
            "short",
            ((_quantile(0.95, "mint_gateway_revisions_behind"), "p95"),),
        ),
        Panel(
            "Alias moves by rules",
            "ops",
            ((_rate("mint_registry_rule_moves_total", "outcome"), "{{outcome}}"),),
        ),
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
