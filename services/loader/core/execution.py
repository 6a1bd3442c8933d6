"""An engine's execution on the present device: defaults, and refused settings.

Invariant: a setting that cannot take effect is refused by name, before anything starts.
"""

import difflib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from mint_common.dtypes import Dtype
from mint_common.errors import SettingInvalid

Executor = Literal["mp", "ray"]

CPU_KV_BYTES = 256 << 20
CPU_SEQUENCES, GPU_SEQUENCES = 64, 256
"""Default maximum of completions that are generated at once: 256 is vLLM's for small GPUs."""

OWNED: Mapping[str, str] = {
    "model": "MINT_LOADER_BASE_DIR",
    "tokenizer": "MINT_LOADER_BASE_DIR",
    "dtype": "MINT_LOADER_DTYPE",
    "max_model_len": "MINT_LOADER_MAX_CONTEXT",
    "max_num_seqs": "MINT_LOADER_MAX_SEQUENCES",
    "max_loras": "MINT_LOADER_SLOTS",
    "max_cpu_loras": "MINT_LOADER_HOST_CAPACITY",
    "tensor_parallel_size": "MINT_LOADER_TENSOR_PARALLEL",
    "pipeline_parallel_size": "MINT_LOADER_PIPELINE_PARALLEL",
    "distributed_executor_backend": "MINT_LOADER_EXECUTOR",
    "nnodes": "MINT_LOADER_NODES",
    "node_rank": "MINT_LOADER_NODE_RANK",
    "master_addr": "MINT_LOADER_LEADER",
    "gpu_memory_utilization": "MINT_LOADER_GPU_MEMORY_UTILIZATION",
    "kv_cache_memory_bytes": "MINT_LOADER_KV_CACHE_BYTES",
    "enforce_eager": "MINT_LOADER_EAGER",
    "generation_config": "MINT_LOADER_DEFAULT_SAMPLING",
    "reasoning_parser": "MINT_LOADER_REASONING_PARSER",
    **dict.fromkeys(
        (
            "additional_config",
            "data_parallel_size",
            "disable_log_stats",
            "enable_log_requests",
            "enable_lora",
            "enable_mixed_moe_lora_format",
            "enable_moe_shared_loras",
            "enable_return_routed_experts",
            "language_model_only",
            "logprobs_mode",
            "lora_dtype",
            "lora_target_modules",
            "master_port",
            "max_logprobs",
            "max_lora_rank",
            "runner",
            "scheduler_cls",
            "seed",
            "served_model_name",
            "skip_tokenizer_init",
            "structured_outputs_config",
            "trust_remote_code",
            "worker_cls",
            "worker_extension_cls",
        ),
        "",
    ),
}
"""vLLM's engine arguments that MinT gives itself, and the setting of each, empty where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """An engine's devices: their number, and whether they compute in bfloat16."""

    kind: Literal["cpu", "cuda"]
    count: int
    has_bfloat16: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Requested settings; None: the device's default. ``engine_args`` is a JSON object, or empty."""

    dtype: Dtype | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    nodes: int = 1
    gpu_memory_utilization: float | None = None
    kv_cache_bytes: int | None = None
    max_sequences: int | None = None
    eager: bool | None = None
    executor: Executor = "mp"
    engine_args: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """An engine's resolved execution settings.

    ``kv_cache_bytes`` is the KV cache's size; with None, vLLM takes the share ``gpu_memory_utilization`` of
    the device's memory, and its own default share if that is None too. With ``has_arena``, adapters are in
    one memory region that devices read from. ``engine_args`` are further arguments for vLLM. The defaults
    are for a CPU.
    """

    dtype: Dtype = "float32"
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    nodes: int = 1
    gpu_memory_utilization: float | None = None
    kv_cache_bytes: int | None = CPU_KV_BYTES
    max_sequences: int = CPU_SEQUENCES
    eager: bool = True
    executor: Executor = "mp"
    has_arena: bool = False
    engine_args: Mapping[str, object] = field(default_factory=dict)

    @property
    def workers(self) -> int:
        """Return the number of workers, on all machines."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def is_spread(self) -> bool:
        """Return whether workers may be on other machines, where nothing of this one can be mapped."""
        return self.executor == "ray" or self.nodes > 1


_RESERVE = 8
"""One extra seat per 8 sequences is reserved for tenants with few running sequences."""
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM accepts as max_lora_rank."""

CPU_QUANTIZATIONS = ("awq", "gptq")
"""Quantizations of a base that vLLM's CPU build has kernels for, beside LoRA."""


def plan_execution(
    asked: Asked,
    *,
    device: Device,
    heads: int | None,
    arguments: Collection[str],
    has_ray: bool,
    quantization: str = "",
    has_delta_nets: bool = False,
) -> Execution:
    """Return how to compute. ``heads``: the base's attention heads; ``arguments``: vLLM's engine arguments.

    ``quantization`` and ``has_delta_nets`` are the base's. Raises SettingInvalid.
    """
    engine_args = read_engine_args(asked.engine_args, arguments=arguments)
    _check_device(asked, device, engine_args)
    _check_quantization(asked, device, quantization)
    if device.kind == "cpu" and has_delta_nets and asked.dtype == "float32":
        raise _refused("dtype", "the base has gated delta nets, which vLLM's CPU build computes in bfloat16")
    _check_parallel(asked, device, heads)
    if asked.executor == "ray" and not has_ray:
        raise _refused("executor", "the package ray is not installed; `mp` runs all workers on this machine")
    on_cpu = device.kind == "cpu"
    return Execution(
        dtype=asked.dtype or _usual_dtype(device, needs_half=bool(quantization) or has_delta_nets),
        tensor_parallel=asked.tensor_parallel,
        pipeline_parallel=asked.pipeline_parallel,
        nodes=asked.nodes,
        gpu_memory_utilization=asked.gpu_memory_utilization,
        kv_cache_bytes=asked.kv_cache_bytes or (CPU_KV_BYTES if on_cpu else None),
        max_sequences=asked.max_sequences or (CPU_SEQUENCES if on_cpu else GPU_SEQUENCES),
        eager=on_cpu if asked.eager is None else asked.eager,
        executor=asked.executor,
        has_arena=not on_cpu and asked.executor == "mp" and asked.nodes == 1,
        engine_args=engine_args,
    )


def _usual_dtype(device: Device, *, needs_half: bool) -> Dtype:
    if device.kind == "cpu" and not needs_half:
        return "float32"
    return "bfloat16" if device.has_bfloat16 else "float16"


def _check_quantization(asked: Asked, device: Device, quantization: str) -> None:
    if device.kind != "cpu" or not quantization:
        return
    if quantization not in CPU_QUANTIZATIONS:
        problem = (
            f"the base is quantized ({quantization}), and vLLM's CPU build has no kernels for that: serve it"
            " on a GPU, or add a copy of it with `mint base add --dequantize`"
        )
        raise SettingInvalid(name="MINT_LOADER_BASE_DIR", problem=problem)
    if asked.dtype == "float32":
        raise _refused("dtype", f"the base is quantized ({quantization}), which computes in bfloat16")


def reserved_sequences(max_sequences: int) -> int:
    """Return how many sequences run beyond the most: for tenants that run little."""
    return max(1, max_sequences // _RESERVE)


def slot_rank(max_rank: int) -> int:
    """Return the rank of the slots of a base: the next one that vLLM has."""
    return next(rank for rank in _RANKS if rank >= max_rank)


def read_engine_args(text: str, *, arguments: Collection[str]) -> Mapping[str, object]:
    """Return the engine arguments of a JSON object. Raises SettingInvalid for unknown or reserved ones."""
    try:
        found = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise _refused("engine_args", f"must be JSON: {error}") from error
    if not isinstance(found, dict):
        raise _refused("engine_args", 'must be a JSON object such as {"max_num_batched_tokens": 8192}')
    for name in found:
        if name in OWNED:
            instead = f"set {OWNED[name]}" if OWNED[name] else "it cannot be changed"
            raise _refused("engine_args", f"{name}: MinT gives this argument itself; {instead}")
        if name not in arguments:
            near = difflib.get_close_matches(name, sorted(arguments), n=3)
            hint = f"; near: {', '.join(near)}" if near else ""
            raise _refused("engine_args", f"{name}: this vLLM has no such engine argument{hint}")
    return found


def _check_device(asked: Asked, device: Device, engine_args: Mapping[str, object]) -> None:
    if device.kind == "cuda":
        if asked.dtype == "float32":
            raise _refused("dtype", "vLLM's LoRA kernels on CUDA take bfloat16 or float16, not float32")
        if asked.dtype == "bfloat16" and not device.has_bfloat16:
            raise _refused("dtype", "these GPUs do not compute in bfloat16; float16 is there")
        return
    if asked.gpu_memory_utilization is not None:
        raise _refused("gpu_memory_utilization", "there is no GPU here; set MINT_LOADER_KV_CACHE_BYTES")
    if asked.eager is False:
        raise _refused("eager", "CUDA graphs need a GPU; on CPU the model always runs eagerly")
    if asked.dtype == "float16":
        raise _refused("dtype", "on CPU float32 and bfloat16 are served")
    if asked.pipeline_parallel > 1:
        # Each stage has a KV cache, and only the last one sees the states that tell what is not finite.
        raise _refused("pipeline_parallel", "on CPU all layers run in one stage")
    kv_dtype = engine_args.get("kv_cache_dtype", "auto")
    if kv_dtype != "auto":
        # What is not finite is looked for in the cache itself, and 8 bits do not tell.
        raise _refused("engine_args", f"kv_cache_dtype: on CPU only auto, the engine's own, not {kv_dtype}")


def _check_parallel(asked: Asked, device: Device, heads: int | None) -> None:
    if heads is not None and heads % asked.tensor_parallel:
        divisors = ", ".join(str(each) for each in range(1, heads + 1) if heads % each == 0)
        problem = f"{asked.tensor_parallel} does not divide the base's {heads} attention heads; {divisors} do"
        raise _refused("tensor_parallel", problem)
    workers = asked.tensor_parallel * asked.pipeline_parallel
    if asked.nodes > 1 and asked.executor == "ray":
        raise _refused("nodes", "Ray places the workers itself; with several machines set EXECUTOR to mp")
    if workers % asked.nodes:
        raise _refused("nodes", f"{asked.nodes} machines cannot have equal shares of {workers} workers")
    if device.kind == "cuda" and asked.executor == "mp" and workers > device.count * asked.nodes:
        seen = device.count * asked.nodes
        field_name = "tensor_parallel" if asked.tensor_parallel > seen else "pipeline_parallel"
        where = "" if asked.nodes == 1 else f" on each of {asked.nodes} machines"
        problem = f"{workers} workers need a GPU each, and this process sees {device.count}{where}"
        raise _refused(field_name, problem)


def _refused(field_name: str, problem: str) -> SettingInvalid:
    return SettingInvalid(name=f"MINT_LOADER_{field_name.upper()}", problem=problem)
