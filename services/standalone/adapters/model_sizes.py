"""The sizes of a model, from transformers' own model without values."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mint_common.adapters_format.base_facts import picked_experts
from mint_common.adapters_format.names import leaf_of, twig_of
from services.standalone.adapters.meta_model import MetaModel, read_config, read_model
from services.standalone.core.model_shape import Linear, ModelShape

_SCALED, _SCALE_BYTES = 128, 4
"""The indexer of sparse attention caches keys in 8 bits, with a float32 scale for so many."""


def shape_of_folder(place: Path) -> ModelShape:
    """Return the shape that a config, or that of a folder, describes. Raises NotFound or InvalidField."""
    return read_shape(read_config(place), place=str(place))


def read_shape(config: Mapping[str, object], *, place: str) -> ModelShape:
    """Return the shape of a model. Raises what `read_model` raises."""
    return shape_of_model(read_model(config, place=place))


def shape_of_model(meta: MetaModel) -> ModelShape:
    """Return the shape of a model, which is changed and must not be read again."""
    experts = meta.experts()
    layers = {prefix: list(_linears(meta, prefix)) for prefix in meta.layers}
    counted = tuple(
        Linear(name=name, inputs=inputs, outputs=outputs, count=count)
        for (name, inputs, outputs), count in Counter(each for own in layers.values() for each in own).items()
    )
    sizes = {prefix: _parameters(layer) for prefix, layer in meta.layers.items()}
    largest = max(sizes, key=lambda prefix: sizes[prefix])
    count = max((each.count for each in experts.values()), default=1)
    picked_share = (picked_experts(meta.text) or count) / count
    cache = _cache(meta)
    return ModelShape(
        architecture=meta.architecture,
        layers=len(layers),
        hidden_size=meta.text.hidden_size,
        vocab_size=meta.text.vocab_size,
        max_context=meta.max_context,
        dtype=str(meta.model.config.dtype or "float32").removeprefix("torch."),
        linears=counted,
        fixed_parameters=_parameters(meta.model)
        - sum(each.inputs * each.outputs * each.count for each in counted),
        kv_values=cache.values,
        kv_heads=cache.heads,
        layer_parameters=sizes[largest],
        layer_values=_values(layers[largest], picked_share),
        kv_bytes=sum(map(_indexed, meta.layers.values())),
        picked_share=picked_share,
        window=meta.window or 0,
        window_values=cache.window_values,
        state_values=cache.state_values,
    )


def _parameters(part: Any) -> int:  # transformers' own
    return sum(each.numel() for each in part.parameters())


def _linears(meta: MetaModel, prefix: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, inputs and outputs of each projection that LoRA can act beside, also of each expert."""
    for name, widths in meta.linears(prefix).items():
        twig = twig_of(name)
        yield twig if "expert" in twig else leaf_of(name), *widths
    for each in meta.experts(prefix).values():
        for leaf, widths in each.projections.items():
            yield from [(f"experts.{leaf}", *widths)] * each.count


def _values(linears: Iterable[tuple[str, int, int]], picked_share: float) -> int:
    """Return how many numbers the linears of a layer read and write for a token."""
    return round(
        sum(
            (inputs + outputs) * (picked_share if name.startswith("experts.") else 1.0)
            for name, inputs, outputs in linears
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cache:
    """Numbers that all layers cache for a token, those of layers with a window, and a sequence's state."""

    values: int
    heads: int
    window_values: int
    state_values: int


def _cache(meta: MetaModel) -> _Cache:
    """Return what the decoder caches of one token; keys and values of every layer where it cannot be told."""
    try:
        layers = _cached_layers(meta)
    except (AttributeError, RuntimeError, TypeError, ValueError):
        heads = getattr(meta.text, "num_key_value_heads", None) or meta.text.num_attention_heads
        width = getattr(meta.text, "head_dim", None) or meta.text.hidden_size // meta.text.num_attention_heads
        values = 2 * heads * width * len(meta.layers)
        return _Cache(values=values, heads=heads, window_values=0, state_values=0)
    attention = [layer for layer in layers if getattr(layer, "keys", None) is not None]
    states = [layer for layer in layers if hasattr(layer, "recurrent_states")]
    sizes = [layer.keys.numel() + layer.values.numel() for layer in attention]
    return _Cache(
        values=sum(sizes),
        heads=max((layer.keys.shape[1] for layer in attention), default=1),
        window_values=sum(
            size for layer, size in zip(attention, sizes, strict=True) if getattr(layer, "is_sliding", False)
        ),
        state_values=sum(
            state.numel()
            for layer in states
            for state in (*layer.conv_states.values(), *layer.recurrent_states.values())
            if state is not None
        ),
    )


def _cached_layers(meta: MetaModel) -> list[Any]:
    """Return the cache of the decoder, which reads one token without values; experts are left out."""
    import torch

    decoder = meta.model.get_decoder()
    for part in decoder.modules():
        if str(getattr(part, "rope_type", "")) in {"dynamic", "longrope"}:
            part.rope_type = "default"  # the others look at the positions' values
    for name in meta.experts():
        meta.model.get_submodule(name).forward = lambda hidden, *_, **__: hidden
    with torch.no_grad(), torch.device("meta"):
        token = torch.zeros((1, 1), dtype=torch.long)
        return list(decoder(input_ids=token, use_cache=True).past_key_values.layers)


def _indexed(layer: Any) -> int:  # transformers' own
    """Return the bytes that the indexer of sparse attention caches of a token."""
    names = dict(layer.named_parameters())
    keys = next((each.shape[0] for name, each in names.items() if name.endswith(".indexer.wk.weight")), 0)
    return int(keys + keys // _SCALED * _SCALE_BYTES)
