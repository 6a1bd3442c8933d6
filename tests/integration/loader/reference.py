"""What transformers computes with adapters added to its weights, in a process of its own.

vLLM changes transformers' classes in the process where it loads a model.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from mint_common.adapters_format import WEIGHTS_FILE, BaseFacts, ExpertsFacts, packed_name, peft_name
from services.standalone.adapters.base_description import describe_base

Tokens = Sequence[int]


class Reference:
    """A base in transformers, in float32, with eager attention: sdpa leaves caps of scores out."""

    def __init__(self, pool: ProcessPoolExecutor, base: Path) -> None:
        self._pool = pool
        self._base = base

    def facts(self) -> BaseFacts:
        """Return the base's facts."""
        return self._pool.submit(partial(describe_base, self._base, name="tiny", max_rank=8)).result()

    def compute(
        self, facts: BaseFacts, adapter: Path | None, sequence: Tokens, first: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the log-probability of each token from the ``first`` on, and experts of each but the last.

        Experts are sorted, ``[tokens, layers, experts of a token]``; none where experts are not given them.
        """
        return self._pool.submit(_compute, self._base, facts, adapter, tuple(sequence), first).result()


@cache
def _model(base: Path) -> Any:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    config = transformers.AutoConfig.from_pretrained(base)
    return _class_of(config).from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()


def _class_of(config: Any) -> Any:
    import transformers

    known = type(config) in transformers.AutoModelForCausalLM._model_mapping
    return transformers.AutoModelForCausalLM if known else transformers.AutoModelForImageTextToText


def _compute(
    base: Path, facts: BaseFacts, adapter: Path | None, sequence: Tokens, first: int
) -> tuple[np.ndarray, np.ndarray]:
    import torch

    model, routes = _model(base), list[np.ndarray]()
    tensors = load_file(adapter / WEIGHTS_FILE) if adapter else {}
    changed = {name: model.get_parameter(name) for name in _changed(model, facts, tensors)}
    before = {name: parameter.detach().clone() for name, parameter in changed.items()}

    def note(_experts: object, given: tuple[Any, ...]) -> None:
        routes.extend(indices[:-1].sort()[0].numpy() for indices in given[1:2])

    hooks = [model.get_submodule(module).register_forward_pre_hook(note) for module in facts.experts]
    with torch.no_grad():
        _add(model, facts, tensors)
        logits = model(input_ids=torch.tensor([list(sequence)]), use_cache=False).logits[0]
        for name, parameter in changed.items():
            parameter.copy_(before[name])
    for hook in hooks:
        hook.remove()
    rows = logits.log_softmax(-1)[first - 1 : -1]
    found = rows.gather(1, torch.tensor(sequence[first:])[:, None])[:, 0].numpy()
    return found, np.stack(routes, axis=1) if routes else np.empty(0)


def _changed(model: Any, facts: BaseFacts, tensors: Mapping[str, np.ndarray]) -> Iterator[str]:
    for module in facts.modules:
        if peft_name(module, "A") in tensors:
            yield f"{module}.weight"
    if any(name.endswith(".packed") for name in tensors):
        for module in facts.experts:
            yield from (f"{module}.{name}" for name, _ in model.get_submodule(module).named_parameters())


def _add(model: Any, facts: BaseFacts, tensors: Mapping[str, np.ndarray]) -> None:
    import torch

    for module in facts.modules:
        if peft_name(module, "A") in tensors:
            a, b = (torch.from_numpy(tensors[peft_name(module, half)]) for half in ("A", "B"))
            model.get_parameter(f"{module}.weight").add_(b @ a)
    for module, layer in facts.experts.items():
        experts = model.get_submodule(module)
        for leaf in layer.projections:
            if packed_name(module, leaf, "A") in tensors:
                a, b = (torch.from_numpy(tensors[packed_name(module, leaf, half)]) for half in ("A", "B"))
                _part(experts, layer, leaf).add_(b @ a)


def _part(experts: Any, layer: ExpertsFacts, leaf: str) -> Any:
    """Return a projection of all experts ``[E, out, in]``, a view of transformers' own parameter."""
    is_fused = layer.gated and leaf != "down_proj"
    weight = experts.gate_up_proj if is_fused else getattr(experts, leaf)
    weight = weight.transpose(1, 2) if layer.transposed else weight
    if not is_fused:
        return weight
    number = ("gate_proj", "up_proj").index(leaf)
    return weight[:, number::2] if layer.interleaved else weight.chunk(2, dim=1)[number]
