"""Start vLLM from the loader's configuration."""

import dataclasses
import importlib
import importlib.util
import json
import logging
import math
import os
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mint_common.adapters_format import BaseFacts, served_targets
from mint_common.adapters_format.layer_kinds import CHUNKED
from mint_common.adapters_format.sites import FOLDED
from mint_common.errors import SettingInvalid, Unavailable
from mint_common.inference.fields import MAX_STOPS
from mint_common.runtime.importing import without_collections
from services.loader.adapters.builder.client import Builder
from services.loader.adapters.vllm.engine import VllmEngine
from services.loader.adapters.vllm.engine_stats import LatestUse, stat_logger
from services.loader.adapters.vllm.output_acks import ACKS_VARIABLE, OutputAcks
from services.loader.adapters.vllm_plugin import PLUGIN, RESERVED, register
from services.loader.core.execution import (
    Asked,
    Device,
    Execution,
    plan_execution,
    reserved_sequences,
    slot_rank,
)
from services.loader.core.nodes import Node
from services.loader.core.parsing import Parsing
from services.loader.core.routes import RouteSource, route_source

_log = logging.getLogger(__name__)

_SCHEDULER = "services.loader.adapters.vllm.fair_scheduler.make_scheduler"
_BLOCK = 128
"""Tokens of a KV block that vLLM chooses on a CPU; on CUDA it chooses a divisor of it."""
_WIDER_WINDOWS = ("Cohere2ForCausalLM",)
"""Architectures whose window is a token wider in vLLM (commandr.py) than in transformers and the trainer."""
_DELTA_NETS = "linear_key_head_dim"
"""The key of a config whose model has gated delta nets: Qwen3-Next, Qwen3.5."""
_EXTENSION = "services.loader.adapters.vllm.worker_extension.WorkerExtension"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The start configuration of the engine; ``node``: this machine's place in an engine over several."""

    base_dir: Path
    facts: BaseFacts
    max_context: int
    slots: int
    host_capacity: int
    max_sequences: int
    max_logprobs: int
    threads: int
    compile_seconds: int
    execution: Execution
    node: Node | None = None
    parsing: Parsing = field(default_factory=Parsing)
    default_sampling: Literal["base", "openai"] = "base"
    stats: bool = True


def plan_for_device(asked: Asked, *, base_dir: Path, threads: int, quantization: str = "") -> Execution:
    """Return how an engine of this base computes on the device that is here; loads vLLM.

    Raises SettingInvalid for what cannot take effect, Unavailable where vLLM finds no device.
    """
    prepare_environment(threads=threads)
    config = _text_config(base_dir)
    return plan_execution(
        asked,
        device=find_device(),
        heads=config.get("num_attention_heads"),
        has_delta_nets=_DELTA_NETS in config,
        arguments=_engine_arguments() if asked.engine_args else (),
        has_ray=importlib.util.find_spec("ray") is not None,
        quantization=quantization,
    )


def find_device() -> Device:
    """Return what vLLM computes on here, without a context on it. Raises Unavailable."""
    with without_collections():
        from vllm.platforms import current_platform

    if current_platform.is_cpu():
        return Device(kind="cpu", count=1, has_bfloat16=True)
    if current_platform.is_cuda_alike():
        return Device(
            kind="cuda",
            count=int(current_platform.device_count()),
            has_bfloat16=bool(current_platform.has_device_capability(80)),
        )
    raise Unavailable(
        what="the engine",
        problem="vLLM finds no device: is this its CUDA build on a machine without a GPU or a driver?",
    )


def base_template(base_dir: Path) -> str:
    """Return the chat template that a base's folder has, empty without one."""
    file = base_dir / "chat_template.jinja"
    if file.is_file():
        return file.read_text()
    config = base_dir / "tokenizer_config.json"
    found = json.loads(config.read_text()).get("chat_template") if config.is_file() else None
    if isinstance(found, list):  # several, by their names
        found = next((each["template"] for each in found if each.get("name") == "default"), None)
    return found if isinstance(found, str) else ""


def reasoning_parsers() -> Collection[str]:
    """Return the names of vLLM's parsers of reasoning."""
    from vllm.reasoning import ReasoningParserManager

    return list(ReasoningParserManager.list_registered())


def _text_config(base_dir: Path) -> Mapping[str, Any]:
    """Return the part of a base's config that says how it reads text: of one that sees images, its own."""
    config: Mapping[str, Any] = json.loads((base_dir / "config.json").read_text())
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def _engine_arguments() -> Collection[str]:
    from vllm.engine.arg_utils import AsyncEngineArgs

    return [field.name for field in dataclasses.fields(AsyncEngineArgs)]


def start_engine(config: EngineConfig, builder: Builder) -> VllmEngine:
    """Start vLLM and its engine process; blocks for seconds. Must run in the main thread.

    Raises Unavailable when the plugin with the repairs is not installed, SettingInvalid for an engine
    argument whose value vLLM refuses.
    """
    _prepare(config)
    with without_collections():
        # Imports that fail inside vLLM keep the frames that led to them: the engine must be in none of those.
        importlib.import_module("vllm.v1.engine.async_llm")
    return _started(config, builder)


def run_workers(config: EngineConfig) -> None:
    """Run this machine's workers of an engine that another one leads; return when one of them has ended.

    Blocks. Must run in the main thread. Raises as `start_engine`.
    """
    _prepare(config)
    with without_collections():
        from vllm.v1.executor.multiproc_executor import MultiprocExecutor

    vllm_config, _, _ = _with_routes(_checked(config, engine_arguments(config)), config)
    executor = MultiprocExecutor(vllm_config, monitor_workers=False)
    _log.info("workers run", extra=dataclasses.asdict(config.execution))
    executor.start_worker_monitor(inline=True)


def _prepare(config: EngineConfig) -> None:
    prepare_environment(threads=config.threads)
    require_plugin()
    prepare_device(find_device(), workers=config.execution.workers)


def setup_of(config: EngineConfig) -> Mapping[str, str]:
    """Return what all machines of an engine must have alike, as texts by the names of settings."""
    import vllm

    named = {
        "base": config.facts.digest,
        "vllm": vllm.__version__,
        "max_context": config.max_context,
        "slots": config.slots,
        "host_capacity": config.host_capacity,
    }
    return {name: str(value) for name, value in (named | dataclasses.asdict(config.execution)).items()}


def _started(config: EngineConfig, builder: Builder) -> VllmEngine:
    from vllm.v1.engine.async_llm import AsyncLLM

    how, taken = config.execution, OutputAcks()
    # In no argument of vLLM's: those name its folder of compiled graphs, and each start has another pipe.
    os.environ[ACKS_VARIABLE] = taken.path
    vllm_config, source, no_routes = _with_routes(_checked(config, engine_arguments(config)), config)
    latest = LatestUse()
    loggers = [stat_logger(latest)] if config.stats else None
    llm = AsyncLLM.from_vllm_config(vllm_config, disable_log_stats=True, stat_loggers=loggers)
    taken.watch(llm.output_processor)
    _log.info("engine starts", extra=dataclasses.asdict(how) | {"routes": str(source)})
    layers = routed_layers(config.facts)
    return VllmEngine(
        llm,
        builder,
        routes=source,
        routed_layers=layers,
        no_routes=no_routes,
        no_processed="the engine decodes speculatively" if vllm_config.speculative_config else "",
        sends_bytes=how.is_spread,
        base=config.facts.name,
        parsing=config.parsing,
        dtype=how.dtype,
        compile_seconds=config.compile_seconds,
        latest=latest,
    )


def _with_routes(vllm_config: Any, config: EngineConfig) -> tuple[Any, RouteSource, str]:
    """Let the second model runner return routes; return the configuration, their source, and a problem."""
    is_first, problem = not vllm_config.use_v2_model_runner, ""
    is_returned = bool(config.facts.experts) and not is_first
    if is_returned:
        try:
            # New arguments: with a flag set on the old ones vLLM sets it in the old configuration too.
            vllm_config = engine_config(engine_arguments(config, returns_routes=True))
        except ValueError as error:
            is_returned, problem = False, f"vLLM does not return routes here: {error}"
    source = route_source(
        has_experts=bool(config.facts.experts),
        is_returned=is_returned,
        is_first_runner=is_first,
        eager=config.execution.eager,
        pipeline_parallel=config.execution.pipeline_parallel,
    )
    if source is not RouteSource.MISSING:
        return vllm_config, source, ""
    stages = "vLLM's first model runner tells routes only eagerly (MINT_LOADER_EAGER=true) and in one stage"
    return vllm_config, source, problem or stages


def routed_layers(facts: BaseFacts) -> tuple[int, ...]:
    """Return the numbers of the layers with experts, which their names hold."""
    found = [re.search(r"\.layers\.(\d+)\.", module) for module in facts.experts]
    return tuple(sorted(int(each[1]) for each in found if each is not None))


def _checked(config: EngineConfig, arguments: Any) -> Any:  # Any, here and below: vllm has no types
    try:
        return engine_config(arguments)
    except (ValueError, TypeError, NotImplementedError) as error:
        given = config.execution.engine_args
        if not given:
            raise
        problem = f"vLLM refuses this engine with {', '.join(given)}: {error}"
        raise SettingInvalid(name="MINT_LOADER_ENGINE_ARGS", problem=problem) from error


def engine_config(arguments: Any) -> Any:
    """Return vLLM's configuration of arguments. Raises what vLLM raises for those that it refuses."""
    from vllm.usage.usage_lib import UsageContext

    # As `vllm serve`: the tokens of a step have a server's default for the device, 8,192 on an H100.
    return arguments.create_engine_config(UsageContext.OPENAI_API_SERVER)


def require_plugin() -> None:
    """Raise Unavailable unless vLLM will find this version's plugin: one that it can't load it only logs."""
    from importlib.metadata import entry_points

    named = {each.value for each in entry_points(group="vllm.general_plugins", name=PLUGIN)}
    if named != {f"{register.__module__}:{register.__qualname__}"}:
        raise Unavailable(
            what="the vLLM plugin", problem="the installation is out of date: run `make install`"
        )


def engine_arguments(config: EngineConfig, *, returns_routes: bool = False) -> Any:
    """Return vLLM's arguments, an AsyncEngineArgs; the environment must be prepared.

    Each argument that is named here is one that `core.execution.OWNED` refuses.
    """
    from vllm.config import StructuredOutputsConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    reserve = reserved_sequences(config.max_sequences)
    how = config.execution
    optional: dict[str, object] = {}
    if how.dtype == "float32" and FOLDED in config.facts.targets:
        optional["attention_backend"] = (
            "CPU_MLA"  # with AMX vLLM takes a kernel for bfloat16 whatever the dtype
        )
    chunk = config.facts.window if CHUNKED in config.facts.layer_kinds else None
    if chunk and chunk % _BLOCK:
        optional["block_size"] = math.gcd(chunk, _BLOCK)  # vLLM wants whole blocks in a chunk
    optional |= how.engine_args
    if config.facts.architecture in _WIDER_WINDOWS and config.facts.window:
        given = optional.get("hf_overrides") or {}
        if isinstance(given, dict):  # vLLM refuses another
            optional["hf_overrides"] = given | {"sliding_window": config.facts.window - 1}
    if how.gpu_memory_utilization is not None:
        optional["gpu_memory_utilization"] = how.gpu_memory_utilization
    if config.node is not None:
        optional |= {
            "nnodes": how.nodes,
            "node_rank": config.node.rank,
            "master_addr": config.node.leader,
            "master_port": config.node.port,
        }
    if how.workers > 1 or how.executor != "mp":
        optional["distributed_executor_backend"] = how.executor  # one worker lives in the engine process
    return AsyncEngineArgs(
        model=str(config.base_dir),
        served_model_name=config.facts.name,
        dtype=how.dtype,
        max_model_len=config.max_context,
        max_num_seqs=config.max_sequences + reserve,
        scheduler_cls=_SCHEDULER,
        additional_config={RESERVED: reserve},
        enable_return_routed_experts=returns_routes,
        max_logprobs=config.max_logprobs,
        generation_config="auto" if config.default_sampling == "base" else "vllm",
        reasoning_parser=config.parsing.reasoning_parser or "",
        logprobs_mode="raw_logprobs",
        # By default what xgrammar refuses is checked by llguidance, in this process: some patterns hold it up
        # for minutes. It is then followed by the backend that the engine's first such request was for.
        structured_outputs_config=StructuredOutputsConfig(backend="xgrammar"),
        enable_lora=True,
        max_loras=config.slots,
        max_cpu_loras=config.host_capacity,
        max_lora_rank=slot_rank(config.facts.max_rank),
        lora_target_modules=_lora_modules(config.facts),
        # Experts' gate and up keep an A each, also where the base has them as one parameter.
        enable_mixed_moe_lora_format=bool(config.facts.experts),
        language_model_only=True,
        tensor_parallel_size=how.tensor_parallel,
        pipeline_parallel_size=how.pipeline_parallel,
        enforce_eager=how.eager,
        kv_cache_memory_bytes=how.kv_cache_bytes,
        worker_extension_cls=_EXTENSION,
        # Of requests without a seed: no two engines, or runs, sample alike, but all workers of one do.
        seed=config.node.seed if config.node is not None else secrets.randbits(31),
        disable_log_stats=True,
        trust_remote_code=False,
        **optional,
    )


def _lora_modules(facts: BaseFacts) -> list[str]:
    # vLLM wraps a layer's experts as one module, whatever the projections are called.
    return [*served_targets(facts), *(["experts"] if facts.experts else [])]


def prepare_environment(*, threads: int) -> None:
    """Set what vLLM and torch read when they are imported; the engine process inherits it."""
    os.environ.update(
        OMP_NUM_THREADS=str(threads),  # on shared cores more threads are several times slower
        HF_HUB_OFFLINE="1",
        TOKENIZERS_PARALLELISM="false",
        VLLM_MAX_STOP_STRINGS=str(MAX_STOPS),
        VLLM_NO_USAGE_STATS="1",
        DO_NOT_TRACK="1",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",  # the worker lives in the engine process: half the start
        VLLM_WORKER_MULTIPROC_METHOD="spawn",  # a fork would copy this process's threads and locks
        VLLM_PLUGINS=PLUGIN,
        VLLM_V1_OUTPUT_PROC_CHUNK_SIZE="8",  # outputs of a step that are taken in without a turn for others
        VLLM_CONFIGURE_LOGGING="0",  # its warnings go where this process's own do
    )
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # would override kv_cache_memory_bytes


def prepare_device(device: Device, *, workers: int) -> None:
    """Set the engine process's environment, by the device."""
    if device.kind == "cpu":
        # The model runs as it is, and two steps of the sampler would be compiled by the C++ compiler when a
        # request first draws at random or asks for log-probabilities: 25 s during which all others wait.
        os.environ["TORCH_COMPILE_DISABLE"] = "1"
    else:
        # Counts what the plugin ends requests for; on CPU the plugin finds it by itself, and more.
        os.environ["VLLM_COMPUTE_NANS_IN_LOGITS"] = "1"
        # FlashInfer compiles its sampler with nvcc as the engine starts, and the packages include none; vLLM
        # looks for the GPU alone (vllm-project/vllm#49497). vLLM's own kernels are compiled by Triton.
        os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    if workers > 1:
        # Else each rank wants a memory node of its own to bind its threads to.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
