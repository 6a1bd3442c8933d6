"""Settings of the loader, read once from the environment."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from mint_common.settings import MemberSettings, RegistryPeer


class LoaderSettings(MemberSettings):
    """A loader owns one engine of one base."""

    peers: RegistryPeer
    engine_id: str = Field(
        "",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]{0,62}|[A-Za-z0-9][A-Za-z0-9_-]{0,58}\*)?$",
        description="name of this engine, the same at every start; empty: the host's name; NAME*: the lowest"
        " number that no engine on the same cache volume has, and a cache folder of its own there",
    )
    base_dir: Path = Field(description="folder of the base: Hugging Face files and mint_base.json")
    cache_dir: Path = Field(description="folder for adapter files; emptied of nothing but old adapters")
    threads: int = Field(1, ge=1, description="threads of the engine; more than the idle cores is slower")
    max_context: int = Field(
        2048, ge=2, description="maximum tokens of a prompt and its completion; the base's own limit stays"
    )
    max_sequences: int | None = Field(
        None,
        ge=1,
        description="maximum completions that are generated at once; unset: 64 on a CPU, 256 on a GPU",
    )
    max_completions: int = Field(128, ge=1, description="maximum completions of one request (n)")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="dtype of the engine and of the adapters in it; auto: bfloat16 on CUDA (float16 where the"
        " GPU lacks it), float32 on CPU (bfloat16 where the base has gated delta nets)",
    )
    tensor_parallel: int = Field(
        1, ge=1, description="workers that share each layer; must divide the base's attention heads"
    )
    pipeline_parallel: int = Field(
        1, ge=1, description="stages that share the layers, each of so many workers; CUDA only"
    )
    nodes: int = Field(
        1,
        ge=1,
        description="machines that share the engine's workers equally; each runs the loader with the same"
        " settings and a rank of its own",
    )
    node_rank: int = Field(0, ge=0, description="rank of this machine; 0 serves, others run workers alone")
    leader: str = Field(
        "",
        pattern=r"^((\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5})?$",
        description="HOST:PORT of the machine of rank 0, where the others join; with several nodes",
    )
    gpu_memory_utilization: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of each GPU's memory that the engine may take, all in all, and that must be free"
        " when it starts; unset: vLLM's own (0.92)",
    )
    kv_cache_bytes: int | None = Field(
        None,
        ge=1 << 20,
        description="memory of the KV cache of each worker; unset: what the engine's share of its GPU leaves"
        " free, on CPU 256 MiB",
    )
    eager: Literal["auto", "true", "false"] = Field(
        "auto", description="whether the model runs without CUDA graphs; auto: only on CPU, which has none"
    )
    executor: Literal["mp", "ray"] = Field(
        "mp", description="executor of several workers: mp (vLLM's own processes) or ray (a Ray cluster)"
    )
    engine_args: str = Field(
        "",
        description="further engine arguments of vLLM, as a JSON object; those that MinT gives itself are"
        " refused by name",
    )
    tool_parser: str = Field(
        "auto",
        description="vLLM's parser of tool calls; auto: by marks in the chat template; none: they stay text",
    )
    tool_strict_level: Literal["forced", "auto", "function", "parameter"] = Field(
        "forced",
        description=(
            "tools whose arguments follow their schemas: forced: those of a request that must call a tool,"
            " unless one says `strict: false`; auto: of tools that say `strict: true`; function, parameter:"
            " as vLLM's `--tool-strict-level`, for every request with tools"
        ),
    )
    reasoning_parser: str = Field(
        "auto",
        description="vLLM's parser of reasoning; auto: the family's, where the template has thoughts;"
        " none: reasoning is content",
    )
    chat_template: Path | None = Field(
        None, description="file with the chat template to use in place of the base's own"
    )
    default_sampling: Literal["base", "openai"] = Field(
        "base",
        description=(
            "sampling defaults of inference requests: base: the base's generation_config.json; "
            "openai: temperature 1 and no truncation"
        ),
    )
    engine_stats: bool = Field(
        True, description="whether `/metrics` shows vLLM's own series of the engine beside the loader's"
    )
    slots: int = Field(8, ge=1, description="maximum adapters in one engine step")
    host_capacity: int = Field(
        64, ge=1, description="maximum adapters in host memory, those in slots included"
    )
    host_bytes: int = Field(2 << 30, ge=1, description="maximum bytes of adapter weights in host memory")
    disk_bytes: int = Field(8 << 30, ge=1, description="maximum bytes of adapter weights in the disk cache")
    queue_depth: int = Field(64, ge=1, description="maximum loads that wait; one more is refused with 429")
    prewarm_homes: int = Field(
        2,
        ge=1,
        description="number of engines of the base that load a new revision before its first request; engines"
        " whose requests use the policy's previous revision do so as well",
    )
    load_workers: int = Field(2, ge=1, description="loads that run at once; the engine takes them in turn")
    stall_share: float = Field(
        0.1, gt=0, le=1, description="share of the engine that filling slots may take while others generate"
    )
    slice_ms: float = Field(2.0, gt=0, description="longest that filling a slot holds the engine up at once")
    max_requests: int = Field(
        512,
        ge=4,
        description="maximum open requests, waiting ones included; one tenant alone may open 3/4,"
        " several tenants share them; one more is refused with 429",
    )
    engine_silence_seconds: float = Field(
        300.0,
        gt=0,
        description="time without an answer after which the engine is killed and the loader restarts; the"
        " process that prepares adapters is replaced after a fifth of it",
    )

    @model_validator(mode="after")
    def _check_nodes(self) -> "LoaderSettings":
        if self.node_rank >= self.nodes:
            raise ValueError(f"node_rank counts from 0: {self.nodes - 1} at most with nodes={self.nodes}")
        if self.nodes > 1 and not self.leader:
            raise ValueError("nodes above 1 needs leader, the address of the machine of rank 0")
        return self

    @model_validator(mode="after")
    def _check_capacity(self) -> "LoaderSettings":
        if self.host_capacity < self.slots:
            raise ValueError("host_capacity counts the adapters in slots too: it can't be less than slots")
        return self
