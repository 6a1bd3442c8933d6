"""Run vLLM's second model runner, the default on CUDA, on a CPU; on the path of processes that are to.

The CPU build includes a second runner whose kernels are Triton's, and Triton's interpreter computes them with
NumPy (``TRITON_INTERPRET=1``). What of vLLM stands in the way is changed as it is imported.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any


def _have_a_driver(module: Any) -> None:
    """Let vLLM find Triton usable: it looks for the active driver of a device, which a CPU lacks."""
    driver = SimpleNamespace(is_active=lambda: True)
    module.backends["cpu"] = SimpleNamespace(driver=driver, compiler=None)


def _plan_ahead(module: Any) -> None:
    """Keep asynchronous scheduling, which vLLM turns off on a CPU and on by default on CUDA."""
    stock = module.CpuPlatform.check_and_update_config.__func__

    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        stock(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    module.CpuPlatform.check_and_update_config = classmethod(check_and_update_config)


def _sample_by_torch(module: Any) -> None:
    """Sample top-k and top-p by torch: the interpreter has ints for the loop indices of vLLM's kernel."""
    module.HAS_TRITON = False


def _count_by_torch(module: Any) -> None:
    """Count what is not a number by torch: the interpreter lacks CUDA's `libdevice.isnan`."""
    module.get_num_nans = lambda logits: logits.isnan().sum(-1).int()


def _clear_new_blocks(module: Any) -> None:
    """Apply MinT's extension that is another platform's than the CPU's, for the first runner's reasons."""
    module.EXTENSIONS = tuple(
        replace(each, platform="any") if each is module.ZERO_BLOCKS else each for each in module.EXTENSIONS
    )


class _AfterImport(importlib.abc.MetaPathFinder):
    """Call functions with modules, each right after its code has run."""

    def __init__(self, changes: dict[str, Callable[[Any], None]]) -> None:
        self._changes = changes

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        change = self._changes.pop(name, None)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target) if change else None
        if spec is None or spec.loader is None or change is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            change(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(
    0,
    _AfterImport(
        {
            "triton.backends": _have_a_driver,
            "vllm.platforms.cpu": _plan_ahead,
            "vllm.v1.sample.ops.topk_topp_sampler": _sample_by_torch,
            "vllm.v1.worker.gpu.metrics.logits": _count_by_torch,
            "services.loader.adapters.vllm_plugin": _clear_new_blocks,
        }
    ),
)
