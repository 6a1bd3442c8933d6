"""vLLM's own Prometheus series of an engine, in the registry that `/metrics` prints."""

from typing import Any

from prometheus_client import REGISTRY


def stat_logger() -> Any:
    """Return the class that exports an engine's series. Any: vllm has no types.

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

    return EngineStats
