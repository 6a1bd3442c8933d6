"""What a `config.json` says of a model's size: parameters, LoRA sites, KV cache. Nothing is loaded."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import msgspec

from mint_common.adapters_format.sites import FOLDED
from mint_common.errors import InvalidField


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A projection that LoRA can act beside: how often the model has it, and its widths."""

    name: str
    inputs: int
    outputs: int
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a model. ``fixed_parameters`` are those beside ``linears``: embeddings, norms, routers.

    ``kv_values`` are the numbers that a token adds to the KV cache in the engine's dtype, ``kv_bytes`` those
    that sparse attention's indexer adds in bytes; ``kv_heads`` share them out, 1 where attention is latent.
    ``layer_parameters`` are those of the largest layer, ``layer_values`` the numbers that its linears read
    and write for a token, which passes through ``picked_share`` of the experts only.
    """

    architecture: str
    layers: int
    hidden_size: int
    vocab_size: int
    max_context: int
    dtype: str
    linears: tuple[Linear, ...]
    fixed_parameters: int
    kv_values: int
    kv_heads: int
    layer_parameters: int
    layer_values: int
    kv_bytes: int = 0
    picked_share: float = 1.0

    @property
    def token_numbers(self) -> tuple[int, int]:
        """Return how many numbers the linears of all layers read and write for a token."""
        picked = [
            (each, each.count * (self.picked_share if each.name.startswith("experts.") else 1.0))
            for each in self.linears
        ]
        read = sum(each.inputs * count for each, count in picked)
        return int(read), int(sum(each.outputs * count for each, count in picked))

    @property
    def expert_parameters(self) -> int:
        """Return the parameters of the routed experts."""
        return _weights(each for each in self.linears if each.name.startswith("experts."))

    @property
    def parameters(self) -> int:
        """Return the number of parameters."""
        return self.fixed_parameters + _weights(self.linears)

    def lora_parameters(self, rank: int) -> int:
        """Return the parameters of an adapter of a rank on every site that is served."""
        return rank * sum((each.inputs + each.outputs) * each.count for each in self.lora_linears)

    @property
    def lora_linears(self) -> tuple[Linear, ...]:
        """Return the linears that engines have LoRA for."""
        return tuple(each for each in self.linears if each.name != FOLDED)


def _weights(linears: Iterable[Linear]) -> int:
    return sum(each.inputs * each.outputs * each.count for each in linears)


Size = Annotated[int, msgspec.Meta(ge=1)]


class _Config(msgspec.Struct):
    """Fields of the eight families; a default is that of transformers' own class."""

    architectures: tuple[str]
    vocab_size: Size
    hidden_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    intermediate_size: Size
    max_position_embeddings: Size
    num_key_value_heads: Size | None = None
    head_dim: int | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    dtype: str | None = None
    torch_dtype: str | None = None
    # Experts
    moe_intermediate_size: int = 0
    num_experts_per_tok: int | None = None
    num_experts: int | None = None
    num_local_experts: int | None = None
    n_routed_experts: int | None = None
    n_shared_experts: int = 0
    decoder_sparse_step: Size = 1
    mlp_only_layers: list[int] | None = None
    mlp_layer_types: list[str] | None = None
    first_k_dense_replace: int | None = None
    # Latent attention
    q_lora_rank: int | None = None
    kv_lora_rank: int = 0
    qk_rope_head_dim: int = 0
    qk_nope_head_dim: int = 0
    v_head_dim: int = 0
    # Sparse attention
    index_n_heads: int = 0
    index_head_dim: int = 0
    indexer_types: list[str] | None = None
    index_topk_pattern: str | list[str] | None = None
    index_topk_freq: int = 1
    index_skip_topk_offset: int = 2

    @property
    def experts(self) -> int:
        return self.n_routed_experts or self.num_experts or self.num_local_experts or 0


QWEN3 = ("Qwen3ForCausalLM", "Qwen3MoeForCausalLM")
GROUPED = ("LlamaForCausalLM", *QWEN3)
SPARSE = ("DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM")
LATENT = ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "Glm4MoeLiteForCausalLM", *SPARSE)
MLP_BIASES = ("LlamaForCausalLM", "DeepseekV2ForCausalLM")
MLP_BIASED = {f"{prefix}{leaf}_proj" for prefix in ("", "shared_experts.") for leaf in ("gate", "up", "down")}
_QWEN3_HEAD_DIM = 128
_FIRST_DENSE = {"DeepseekV2ForCausalLM": 0, "Glm4MoeLiteForCausalLM": 1}
_SCALE_BYTES = 4
_SCALED = 128
"""The indexer's keys are kept in 8 bits, with a float32 scale for so many."""


def read_shape(config: Mapping[str, object], *, place: str) -> ModelShape:
    """Return the shape of a model. Raises InvalidField, naming ``place``, when the config says too little."""
    try:
        read = msgspec.convert(config, _Config)
        (architecture,) = read.architectures
        if architecture not in (*GROUPED, *LATENT):
            known = ", ".join((*GROUPED, *LATENT))
            raise InvalidField(field=place, problem=f"architecture {architecture!r}; MinT knows {known}")
        return _shape(read)
    except msgspec.ValidationError as error:
        raise InvalidField(field=place, problem=str(error)) from error


def _shape(config: _Config) -> ModelShape:
    (architecture,) = config.architectures
    attention, kept = (_latent if architecture in LATENT else _grouped)(config)
    layers = config.num_hidden_layers
    routed = sum(_is_routed(config, index) for index in range(layers))
    experts = _experts(config) if routed else []
    dense = _gated("", config.hidden_size, config.intermediate_size) if routed < layers else []
    linears = [*_times(attention, layers), *_times(dense, layers - routed), *_times(experts, routed)]
    biases = layers * _attention_biases(config)
    if config.mlp_bias and architecture in MLP_BIASES:
        biases += sum(each.outputs * each.count for each in linears if each.name in MLP_BIASED)
    router = config.experts * config.hidden_size if routed else 0
    indexers, indexer, indexer_bytes = _indexers(config)
    in_layer = 2 * config.hidden_size + kept.norms
    in_each = in_layer + _weights(attention) + indexer
    head = 1 if config.tie_word_embeddings else 2
    active = [*attention, *(_active(config, experts) or dense)]
    return ModelShape(
        architecture=architecture,
        layers=layers,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        max_context=config.max_position_embeddings,
        dtype=config.dtype or config.torch_dtype or "float32",
        linears=tuple(linears),
        fixed_parameters=head * config.vocab_size * config.hidden_size
        + config.hidden_size  # the last norm
        + layers * in_layer
        + biases
        + routed * router
        + indexers * indexer,
        kv_values=layers * kept.kv_values,
        kv_heads=kept.kv_heads,
        layer_parameters=in_each + max(_weights(dense), _weights(experts) + router),
        layer_values=sum((each.inputs + each.outputs) * each.count for each in active),
        kv_bytes=layers * indexer_bytes,
        picked_share=(config.num_experts_per_tok or config.experts) / config.experts if routed else 1.0,
    )


def _active(config: _Config, experts: Iterable[Linear]) -> list[Linear]:
    """Return the linears of a routed layer that one token passes through."""
    picked = config.num_experts_per_tok or config.experts
    return [
        replace(each, count=picked if each.name.startswith("experts.") else each.count) for each in experts
    ]


def _times(linears: Iterable[Linear], layers: int) -> list[Linear]:
    return [replace(each, count=each.count * layers) for each in linears if layers]


@dataclass(frozen=True, slots=True, kw_only=True)
class _PerLayer:
    """Norms of a layer's attention, and what a token adds to its KV cache."""

    norms: int
    kv_values: int
    kv_heads: int


def _grouped(config: _Config) -> tuple[list[Linear], _PerLayer]:
    width, heads = config.hidden_size, config.num_attention_heads
    qwen3 = config.architectures[0] in QWEN3
    usual = _QWEN3_HEAD_DIM if config.architectures[0] == "Qwen3ForCausalLM" else width // heads
    head = config.head_dim or usual
    kv = (config.num_key_value_heads or heads) * head
    linears = [
        Linear(name="q_proj", inputs=width, outputs=heads * head),
        Linear(name="k_proj", inputs=width, outputs=kv),
        Linear(name="v_proj", inputs=width, outputs=kv),
        Linear(name="o_proj", inputs=heads * head, outputs=width),
    ]
    return linears, _PerLayer(norms=2 * head if qwen3 else 0, kv_values=2 * kv, kv_heads=kv // head)


def _latent(config: _Config) -> tuple[list[Linear], _PerLayer]:
    width, heads = config.hidden_size, config.num_attention_heads
    query = heads * (config.qk_nope_head_dim + config.qk_rope_head_dim)
    latent = config.kv_lora_rank
    queries = [Linear(name="q_proj", inputs=width, outputs=query)]
    if config.q_lora_rank is not None:
        queries = [
            Linear(name="q_a_proj", inputs=width, outputs=config.q_lora_rank),
            Linear(name="q_b_proj", inputs=config.q_lora_rank, outputs=query),
        ]
    values = heads * config.v_head_dim
    linears = [
        *queries,
        Linear(name="kv_a_proj_with_mqa", inputs=width, outputs=latent + config.qk_rope_head_dim),
        Linear(name="kv_b_proj", inputs=latent, outputs=heads * config.qk_nope_head_dim + values),
        Linear(name="o_proj", inputs=values, outputs=width),
    ]
    norms = latent + (config.q_lora_rank or 0)
    return linears, _PerLayer(norms=norms, kv_values=latent + config.qk_rope_head_dim, kv_heads=1)


def _experts(config: _Config) -> list[Linear]:
    """Return the linears of a routed layer: all routed experts, and the shared ones as one wide MLP."""
    width, middle = config.hidden_size, config.moe_intermediate_size
    routed = _times(_gated("experts.", width, middle), config.experts)
    shared = _gated("shared_experts.", width, middle * config.n_shared_experts)
    return [*routed, *(shared if config.n_shared_experts else [])]


def _gated(prefix: str, width: int, middle: int) -> list[Linear]:
    return [
        Linear(name=f"{prefix}gate_proj", inputs=width, outputs=middle),
        Linear(name=f"{prefix}up_proj", inputs=width, outputs=middle),
        Linear(name=f"{prefix}down_proj", inputs=middle, outputs=width),
    ]


def _is_routed(config: _Config, layer: int) -> bool:
    architecture = config.architectures[0]
    if not config.experts:
        return False
    if architecture in GROUPED:
        skipped = config.mlp_only_layers or []
        return layer not in skipped and (layer + 1) % config.decoder_sparse_step == 0
    if config.mlp_layer_types:
        return config.mlp_layer_types[layer] == "sparse"
    first = config.first_k_dense_replace
    if first is None or architecture == "Glm4MoeLiteForCausalLM":
        first = _FIRST_DENSE.get(architecture, 3)
    return layer >= first


def _attention_biases(config: _Config) -> int:
    if not config.attention_bias:
        return 0
    attention, _ = (_latent if config.architectures[0] in LATENT else _grouped)(config)
    biased = {"q_proj", "k_proj", "v_proj", "o_proj", "q_a_proj", "kv_a_proj_with_mqa"}
    if config.architectures[0] in LATENT:
        biased -= {"q_proj"}
    return sum(each.outputs for each in attention if each.name in biased)


def _indexers(config: _Config) -> tuple[int, int, int]:
    """Return how many layers have an indexer, its parameters, and the bytes of a token in its cache."""
    if config.architectures[0] not in SPARSE:
        return 0, 0, 0
    heads, width = config.index_n_heads, config.index_head_dim
    queries = (config.q_lora_rank or 0) * heads * width
    parameters = queries + config.hidden_size * (width + heads) + 2 * width
    return _indexed_layers(config), parameters, width + width // _SCALED * _SCALE_BYTES


def _indexed_layers(config: _Config) -> int:
    """Return how many layers pick keys themselves; GLM's others take what an earlier layer picked."""
    layers = config.num_hidden_layers
    if config.architectures[0] != "GlmMoeDsaForCausalLM":
        return layers
    stated = config.indexer_types or config.index_topk_pattern
    if stated:
        return sum(each in {"full", "F"} for each in stated)
    every, offset = max(config.index_topk_freq, 1), config.index_skip_topk_offset
    return sum(max(layer - offset + 1, 0) % every == 0 for layer in range(layers))
