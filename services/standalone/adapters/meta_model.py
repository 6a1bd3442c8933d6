"""The sizes of the model that a `config.json` describes: transformers' own model, built without its values.

Importing torch and transformers takes seconds, building takes a tenth of one, of the largest models too.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

import msgspec

from mint_client.core.refusals import ExtraMissingError
from mint_common.errors import InvalidField
from services.standalone.core.model_shape import Linear, ModelShape

_SCALED, _SCALE_BYTES = 128, 4
"""The indexer of sparse attention caches keys in 8 bits, with a float32 scale for so many."""

Size = Annotated[int, msgspec.Meta(ge=1)]
Parameters = list[tuple[str, tuple[int, ...]]]


class _Config(msgspec.Struct):
    """Fields that a config must say; of others transformers has defaults."""

    architectures: tuple[str]
    vocab_size: Size
    hidden_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    intermediate_size: Size
    max_position_embeddings: Size
    dtype: str | None = None
    torch_dtype: str | None = None


def read_shape(config: Mapping[str, object], *, place: str) -> ModelShape:
    """Return the shape of a model.

    Raises InvalidField, naming ``place``, for a config that says too little or is of no family that MinT has;
    ExtraMissingError without torch.
    """
    try:
        read = msgspec.convert(config, _Config)
    except msgspec.ValidationError as error:
        raise InvalidField(field=place, problem=str(error)) from error
    (architecture,) = read.architectures
    return _shape(read, *_meta_model(architecture, config, place))


def _meta_model(architecture: str, config: Mapping[str, object], place: str) -> tuple[Any, Any]:
    """Return transformers' config and its model on torch's meta device; neither has types."""
    try:
        import torch  # seconds to import; most commands need none of it
        import transformers
        from huggingface_hub.errors import StrictDataclassError
    except ImportError as error:
        raise ExtraMissingError(option="the size of a model", package="mint-stack[cpu]") from error
    known = getattr(transformers, architecture, None)
    if known is None:
        raise InvalidField(
            field=place, problem=f"architecture {architecture!r}: transformers has no such class"
        )
    try:
        filled = known.config_class(**config)
        with torch.device("meta"):
            return filled, known(filled)
    except (StrictDataclassError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InvalidField(field=place, problem=f"is no config of {architecture}: {error}") from error


def _shape(read: _Config, config: Any, model: Any) -> ModelShape:  # transformers' own
    layers: list[Parameters] = [
        [(name, tuple(each.shape)) for name, each in layer.named_parameters()] for layer in model.model.layers
    ]
    linears = Counter(each for layer in layers for each in _linears(layer))
    counted = tuple(
        Linear(name=name, inputs=inputs, outputs=outputs, count=count)
        for (name, inputs, outputs), count in linears.items()
    )
    total = sum(each.numel() for each in model.parameters())
    sizes = [sum(each.numel() for each in layer.parameters()) for layer in model.model.layers]
    largest = layers[sizes.index(max(sizes))]
    experts = max((shape[0] for name, shape in largest if _is_experts(name)), default=0)
    picked_share = (getattr(config, "num_experts_per_tok", None) or experts) / experts if experts else 1.0
    kv_values, kv_heads, kv_bytes = _cached(largest, config)
    return ModelShape(
        architecture=read.architectures[0],
        layers=len(layers),
        hidden_size=read.hidden_size,
        vocab_size=read.vocab_size,
        max_context=read.max_position_embeddings,
        dtype=read.dtype or read.torch_dtype or "float32",
        linears=counted,
        fixed_parameters=total - sum(each.inputs * each.outputs * each.count for each in counted),
        kv_values=len(layers) * kv_values,
        kv_heads=kv_heads,
        layer_parameters=max(sizes),
        layer_values=_values(_linears(largest), picked_share),
        kv_bytes=len(layers) * kv_bytes,
        picked_share=picked_share,
    )


def _linears(layer: Parameters) -> Iterator[tuple[str, int, int]]:
    """Yield name, inputs and outputs of each projection that LoRA can act beside, also of each expert."""
    for path, shape in layer:
        if _is_experts(path):
            count, outputs, inputs = shape
            names = ("gate_proj", "up_proj") if path.endswith("gate_up_proj") else ("down_proj",)
            for name in names:
                yield from [(f"experts.{name}", inputs, outputs // len(names))] * count
        elif len(shape) == 2 and "_proj" in (leaf := path.split(".")[-2]) and ".indexer." not in path:
            shared = "shared_experts." if ".shared_experts." in path else ""
            yield f"{shared}{leaf}", shape[1], shape[0]


def _is_experts(path: str) -> bool:
    return path.rpartition(".")[0].endswith(".experts")


def _values(linears: Iterable[tuple[str, int, int]], picked_share: float) -> int:
    """Return how many numbers the linears of a layer read and write for a token."""
    passed = sum(
        (inputs + outputs) * (picked_share if name.startswith("experts.") else 1.0)
        for name, inputs, outputs in linears
    )
    return round(passed)


def _cached(layer: Parameters, config: Any) -> tuple[int, int, int]:  # transformers' own
    """Return what a token adds to a layer's KV cache: numbers, the heads that share them, further bytes."""
    outputs = {path.split(".")[-2]: shape[0] for path, shape in layer if path.endswith(".weight")}
    indexed = next((shape[0] for path, shape in layer if path.endswith(".indexer.wk.weight")), 0)
    kv_bytes = indexed + indexed // _SCALED * _SCALE_BYTES
    latent = outputs.get("kv_a_proj_with_mqa")
    if latent is not None:
        return latent, 1, kv_bytes
    return outputs["k_proj"] + outputs["v_proj"], int(config.num_key_value_heads), kv_bytes
