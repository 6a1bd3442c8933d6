"""The description of a base by transformers' own model of its `config.json`, built without its values.

Importing torch and transformers takes seconds, building takes a tenth of one, of the largest models too.
"""

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mint_client.core.refusals import ExtraMissingError
from mint_common.adapters_format.base_facts import ExpertsFacts
from mint_common.adapters_format.layer_kinds import CHUNKED, FULL, MASKED, SLIDING, TOKENWISE
from mint_common.errors import InvalidField, NotFound
from mint_common.model_files import CONFIG

_NOT_ADAPTED = ("Router", "Indexer")
"""Parts of classes' names: routers choose experts, and indexers, which have no gradient, choose keys."""
_GATES = ("gate", "router")
"""Names of routers that are linears of no class of their own."""

_EXPERTS_DIMENSIONS = 3
_WRONG = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError),
    *(LookupError, RuntimeError, TypeError, ValueError),
)
"""Errors of transformers' classes where a config's values fit none of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaModel:
    """A causal language model on torch's meta device; ``text`` is the config of its decoder.

    ``layers`` are the decoder's by their names in the model. A tower for images has none.
    """

    architecture: str
    model: Any  # transformers has no types
    text: Any
    layers: Mapping[str, Any]

    @property
    def layer_kinds(self) -> tuple[str, ...]:
        """Return what each layer does with a sequence, in transformers' words; () is full attention."""
        kinds = getattr(self.text, "layer_types", None) or getattr(self.text, "layers_block_type", None)
        if not kinds and getattr(self.text, "sliding_window", None):
            kinds = [SLIDING] * len(self.layers)
        return tuple(kinds or ()) if set(kinds or ()) - {FULL} else ()

    @property
    def window(self) -> int | None:
        """Return how many tokens the layers see that do not see all."""
        if SLIDING in self.layer_kinds:
            return int(self.text.sliding_window)
        return int(self.text.attention_chunk_size) if CHUNKED in self.layer_kinds else None

    @property
    def shares_prompts(self) -> bool:
        """Return whether a mask can keep apart rows that follow one copy of a prompt: no state runs along."""
        from torch import nn

        runs_along = any(
            isinstance(part, nn.Conv1d) for layer in self.layers.values() for part in layer.modules()
        )
        return not runs_along and (MASKED | TOKENWISE).issuperset(self.layer_kinds)

    @property
    def max_context(self) -> int:
        """Return how many tokens a sequence may have: with longrope as many as in its first training.

        Beyond them vLLM takes the long frequencies for every sequence, transformers for those alone that are
        longer. Raises InvalidField where the config does not say.
        """
        found = getattr(self.text, "rope_parameters", None) or {}
        ropes = [found, *(one for one in found.values() if isinstance(one, dict))]
        first = [
            one["original_max_position_embeddings"] for one in ropes if one.get("rope_type") == "longrope"
        ]
        return min([self.full_context, *map(int, first)])

    @property
    def full_context(self) -> int:
        """Return how many tokens a sequence may have by the config. Raises InvalidField."""
        for name in ("max_position_embeddings", "model_max_length"):
            if found := getattr(self.text, name, None):
                return int(found)
        raise InvalidField(field="max_position_embeddings", problem="config.json does not say the context")

    def linears(self, layer: str | None = None) -> dict[str, tuple[int, int]]:
        """Return inputs and outputs of each linear that may carry LoRA, by name; of all layers, or one."""
        return {
            name: (part.in_features, part.out_features)
            for prefix in (self.layers if layer is None else (layer,))
            for name, part in _linears(self.layers[prefix], prefix)
        }

    def experts(self, layer: str | None = None) -> dict[str, ExpertsFacts]:
        """Return the routed experts by the name of their module; of all layers, or one."""
        return {
            name: _experts(part)
            for prefix in (self.layers if layer is None else (layer,))
            for name, part in self.layers[prefix].named_modules(prefix=prefix)
            if getattr(getattr(part, "down_proj", None), "ndim", 0) == _EXPERTS_DIMENSIONS
        }


def read_config(place: Path) -> dict[str, object]:
    """Return a parsed `config.json`, or that of a folder. Raises NotFound or InvalidField."""
    path = place / CONFIG if place.is_dir() else place
    try:
        config = json.loads(path.read_bytes(), object_hook=_special_float)
    except FileNotFoundError as error:
        raise NotFound(kind="base config", name=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise InvalidField(field=str(path), problem=f"is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise InvalidField(field=str(path), problem="is not a JSON object")
    return config


def _special_float(found: dict[str, Any]) -> Any:
    """Return infinity for what transformers writes for it."""
    return float(found["__float__"]) if found.keys() == {"__float__"} else found


def read_model(config: Mapping[str, object], *, place: str) -> MetaModel:
    """Return the model of a parsed config.

    Raises InvalidField, naming ``place``, for a config that says too little or that transformers has no
    class for; ExtraMissingError without torch.
    """
    named = config.get("architectures")
    if not (isinstance(named, list) and len(named) == 1 and isinstance(named[0], str)):
        raise InvalidField(field=place, problem=f"architectures must name one class, found {named!r}")
    try:
        import torch  # seconds to import; most commands need none of it
        from huggingface_hub.errors import StrictDataclassError
    except ImportError as error:
        raise ExtraMissingError(option="the size of a model", package="mint-stack[cpu]") from error
    config_class, auto = _classes(config, named[0], place)
    try:
        with torch.device("meta"):
            named_type = {**deepcopy(dict(config)), "model_type": config_class.model_type}
            model = auto.from_config(config_class.from_dict(named_type), trust_remote_code=False)
        text = model.config.get_text_config()
        layers = _layers(model, text.num_hidden_layers)
    except (*_WRONG, StrictDataclassError) as error:
        raise InvalidField(field=place, problem=f"is no config of {named[0]}: {error}") from error
    return MetaModel(architecture=named[0], model=model, text=text, layers=layers)


def check_type(config: Mapping[str, object], meta: MetaModel, *, place: str) -> None:
    """Raise InvalidField for a model_type that only code beside the model has, such as kimi_k2."""
    import transformers

    said = config.get("model_type")
    if said not in transformers.CONFIG_MAPPING:
        problem = (
            f"has model_type {said!r}, which transformers lacks: write that of {meta.architecture} instead,"
            f" {type(meta.model).config_class.model_type!r}, and leave out auto_map"
        )
        raise InvalidField(field=place, problem=problem)


def _classes(config: Mapping[str, object], architecture: str, place: str) -> tuple[Any, Any]:
    """Return the class of a config and transformers' maker of its model. Raises InvalidField."""
    import transformers
    from transformers.models.auto import modeling_auto

    said = config.get("model_type")
    own = getattr(transformers, architecture, None)
    # A type that is new in name only, such as kimi_k2, says which class of transformers it has.
    known = transformers.CONFIG_MAPPING.get(said) or getattr(own, "config_class", None)
    if known is None:
        code = "; MinT runs no code that comes with a model" if "auto_map" in config else ""
        problem = (
            f"is of {architecture} (model_type {said!r}), which transformers {transformers.__version__} does"
            f" not have{code}. Take a model of one of its classes"
        )
        raise InvalidField(field=place, problem=problem)
    makers = {
        transformers.AutoModelForCausalLM: modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        transformers.AutoModelForImageTextToText: modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    }
    writers = {name for names in makers.values() for each in names.values() for name in _as_tuple(each)}
    maker = next((maker for maker, names in makers.items() if known.model_type in names), None)
    if maker is None or architecture not in writers:
        problem = f"is of {architecture}, which writes no text: take a causal language model"
        raise InvalidField(field=place, problem=problem)
    return known, maker


def _as_tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _layers(model: Any, count: int) -> dict[str, Any]:
    """Return the layers of a model's decoder. Raises LookupError."""
    from torch import nn

    names = {id(part): name for name, part in model.named_modules()}
    found = (part for part in model.get_decoder().modules() if isinstance(part, nn.ModuleList))
    layers = next((part for part in found if len(part) == count), None)
    if layers is None:
        problem = f"its decoder has no {count} layers in a row"
        raise LookupError(problem)
    return {f"{names[id(layers)]}.{index}": layer for index, layer in enumerate(layers)}


def _linears(part: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    from torch import nn

    for leaf, child in part.named_children():
        name = f"{prefix}.{leaf}"
        if leaf in _GATES or any(word in type(child).__name__ for word in _NOT_ADAPTED):
            continue
        if type(child) is nn.Linear and child.out_features > 1:  # one output is a gate
            yield name, child
        yield from _linears(child, name)


def _experts(part: Any) -> ExpertsFacts:
    own = dict(part.named_parameters(recurse=False))
    gated = "gate_up_proj" in own
    first, down = own["gate_up_proj" if gated else "up_proj"], own["down_proj"]
    # Llama 4 has no flags. Gate and up together are twice as wide as down, so that the shapes tell.
    transposed = getattr(part, "is_transposed", gated and first.shape[1] == down.shape[2])
    inner, width = down.shape[1:] if transposed else down.shape[:0:-1]
    into = (first.shape[1 if transposed else 2], inner)
    return ExpertsFacts(
        count=down.shape[0],
        projections={
            "down_proj": (inner, width),
            **({"gate_proj": into} if gated else {}),
            "up_proj": into,
        },
        gated=gated,
        biased=any(name.endswith("bias") for name in own),
        transposed=transposed,
        interleaved=not getattr(part, "is_concatenated", True),
    )
