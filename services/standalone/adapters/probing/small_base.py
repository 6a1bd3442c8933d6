"""Makes the small base of a probe: some layers of a config, random weights in which every scale shows."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mint_common.adapters_format.base_files import TEXT_FILES
from mint_common.model_files import CONFIG
from services.standalone.adapters.meta_model import read_config, read_model
from services.standalone.core.small_config import layers_of, narrowed, shortened, text_of

_MAX_LAYERS = 12
_MAX_KINDS = 4
_LOGITS = 10.0
"""Largest logit: caps of 30 move it by more than the limit, and float32 still keeps six digits of a nat."""


def make_small_base(source: Path, folder: Path) -> str:
    """Write a small base with the tokenizer of a folder; return what is small about it."""
    config = read_config(source)
    layers = _needed_layers(config)
    short = shortened(config, layers=layers)
    narrow = narrowed(short)
    if _layer_names(narrow) != _layer_names(short):
        narrow = short
    model = _filled(narrow)
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    for name in TEXT_FILES:
        if (source / name).is_file():
            shutil.copy(source / name, folder / name)
    (folder / CONFIG).write_text(json.dumps(narrow, indent=1))
    text, small = text_of(config), text_of(narrow)
    kept = f"{layers_of(small)} of {layers_of(text)} layers"
    return f"{kept}, width {small.get('hidden_size')} of {text.get('hidden_size')}"


def _needed_layers(config: Mapping[str, Any]) -> int:
    """Return how many of the first layers are of every kind that there is, two at least."""
    kinds = list(_layer_names(config))
    seen: set[Any] = set()
    needed = min(2, len(kinds))
    for number, kind in enumerate(kinds[:_MAX_LAYERS], start=1):
        if kind not in seen:
            seen.add(kind)
            needed = max(needed, number)
    return needed


def _layer_names(config: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return what each layer consists of: what the config says of it, and the names of its parameters."""
    meta = read_model(config, place=CONFIG)
    lists = [own for own in meta.text.to_dict().values() if isinstance(own, list)]
    # A list that numbers the layers says nothing of their kinds.
    told = [own for own in lists if len(own) == len(meta.layers) and len(set(map(str, own))) <= _MAX_KINDS]
    return [
        (*(str(own[number]) for own in told), *(name for name, _ in layer.named_parameters()))
        for number, layer in enumerate(meta.layers.values())
    ]


def _filled(config: Mapping[str, Any]) -> Any:
    """Return a model with values as the class draws them, but of size one, and none constant."""
    import torch
    import transformers

    torch.manual_seed(0)
    text = {
        **text_of(config),
        "initializer_range": 1.1 * int(text_of(config).get("hidden_size", 256)) ** -0.5,
    }
    whole = {**config, "text_config": text} if "text_config" in config else text
    named = getattr(transformers, config["architectures"][0])  # the class that writes such a checkpoint
    model = named._from_config(named.config_class.from_dict(whole)).float().eval()  # noqa: SLF001  # no other
    with torch.no_grad():
        for weight in [*model.parameters(), *model.buffers()]:
            if weight.dim() and weight.is_floating_point() and weight.min() == weight.max():
                weight.add_(torch.randn_like(weight), alpha=0.1)
        _scale_logits(model)
        for weight in model.parameters():
            weight.copy_(weight.bfloat16())  # exact in any dtype that it is served in
    return model


def _scale_logits(model: Any) -> None:
    """Scale the last norm until the largest logit has its size: caps and multipliers of a head show then."""
    import torch

    vocab = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(3, vocab, (1, 40), generator=torch.Generator().manual_seed(1))
    norm = _last_norm(model, ids)
    for one_plus in (False, True):
        found = _largest(model, ids)
        if norm is None or found > 0.8 * _LOGITS:
            return
        before, factor = norm.weight.clone(), _LOGITS / found
        norm.weight.copy_((1 + before) * factor - 1 if one_plus else before * factor)
        if one_plus or abs(_largest(model, ids) / _LOGITS - 1) < 0.3:
            return
        norm.weight.copy_(before)


def _largest(model: Any, ids: Any) -> float:
    return float(model(input_ids=ids, use_cache=False).logits.abs().max())


def _last_norm(model: Any, ids: Any) -> Any:
    """Return the module whose output the head reads, if it has a weight of its own."""
    import torch

    outputs: list[tuple[Any, Any]] = []
    read: list[Any] = []
    hooks = [
        module.register_forward_hook(lambda module, _inputs, output: outputs.append((module, output)))
        for module in _with_vectors(model)
    ]
    head = model.get_output_embeddings()
    hooks.append(head.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0])))
    model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return next((module for module, output in reversed(outputs) if torch.equal(output, read[0])), None)


def _with_vectors(model: Any) -> Iterator[Any]:
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if weight is not None and weight.dim() == 1:
            yield module
