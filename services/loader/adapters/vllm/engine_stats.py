"""vLLM's own statistics of an engine: its Prometheus series, which `/metrics` prints, and its cache's use."""

from typing import Any

from prometheus_client import REGISTRY

from mint_common.generation import CacheUse


class LatestUse:
    """The use of the KV cache after the engine's last step; None before the first."""

    def __init__(self) -> None:
        self.use: CacheUse | None = None
        self._preemptions = 0

    def note(self, scheduler_stats: Any, iteration_stats: Any) -> None:
        """Note what a step left; Any: vLLM's `SchedulerStats` and `IterationStats`, or None."""
        if iteration_stats is not None:
            self._preemptions += iteration_stats.num_preempted_reqs
        if scheduler_stats is not None:
            self.use = CacheUse(
                share=scheduler_stats.kv_cache_usage,
                running=scheduler_stats.num_running_reqs,
                waiting=scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs,
                preemptions=self._preemptions,
            )


def stat_logger(latest: LatestUse) -> Any:
    """Return the class that exports an engine's series, and notes its use. Any: vllm has no types.

    It leaves ``vllm:lora_requests_info`` out: its labels are the names of all adapters that run or wait, so
    every set of adapters that ever met in a step would stay in memory as a series of its own.
    """
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    class EngineStats(PrometheusStatLogger):  # type: ignore[misc]  # vllm has no types
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            gauge: Any = getattr(self, "gauge_lora_info", None)
            if gauge is not None:
                REGISTRY.unregister(gauge)
                self.gauge_lora_info = None

        def record(self, scheduler_stats: Any, iteration_stats: Any, *args: Any, **options: Any) -> None:
            super().record(scheduler_stats, iteration_stats, *args, **options)
            latest.note(scheduler_stats, iteration_stats)

    return EngineStats
