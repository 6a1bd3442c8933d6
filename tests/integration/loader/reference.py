"""What transformers computes with adapters added to its weights, in a process of its own.

vLLM changes transformers' classes in the process where it loads a model.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from mint_common.adapters_format import WEIGHTS_FILE, BaseFacts, packed_name, peft_name
from mint_common.adapters_format.base_facts import ExpertsFacts
from mint_common.adapters_format.names import leaf_of
from mint_common.ids import BaseName, Digest

Tokens = Sequence[int]


class Reference:
    """A base in transformers, in float32, with eager attention: sdpa leaves caps of scores out."""

    def __init__(self, pool: ProcessPoolExecutor, base: Path) -> None:
        self._pool = pool
        self._base = base

    def facts(self) -> BaseFacts:
        """Return the base's facts."""
        return self._pool.submit(_described, self._base).result()

    def logprobs(self, facts: BaseFacts, adapter: Path | None, sequence: Tokens, first: int) -> np.ndarray:
        """Return the log-probability of each token of a sequence from the ``first`` on."""
        return self._pool.submit(_logprobs, self._base, facts, adapter, tuple(sequence), first).result()


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


def _logprobs(base: Path, facts: BaseFacts, adapter: Path | None, sequence: Tokens, first: int) -> np.ndarray:
    import torch

    model = _model(base)
    tensors = load_file(adapter / WEIGHTS_FILE) if adapter else {}
    changed = {name: model.get_parameter(name) for name in _changed(model, facts, tensors)}
    before = {name: parameter.detach().clone() for name, parameter in changed.items()}
    with torch.no_grad():
        _add(model, facts, tensors)
        logits = model(input_ids=torch.tensor([list(sequence)]), use_cache=False).logits[0]
        for name, parameter in changed.items():
            parameter.copy_(before[name])
    rows = logits.log_softmax(-1)[first - 1 : -1]
    found: np.ndarray = rows.gather(1, torch.tensor(sequence[first:])[:, None])[:, 0].numpy()
    return found


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
                _part(experts, leaf).add_(b @ a)


def _part(experts: Any, leaf: str) -> Any:
    """Return a projection of all experts ``[E, out, in]``, a view of transformers' own parameter."""
    if leaf == "down_proj" or not hasattr(experts, "gate_up_proj"):
        weight = getattr(experts, leaf)
        return weight.transpose(1, 2) if _is_transposed(experts) else weight
    weight = experts.gate_up_proj
    weight = weight.transpose(1, 2) if _is_transposed(experts) else weight
    number, size = ("gate_proj", "up_proj").index(leaf), weight.shape[1] // 2
    if getattr(experts, "is_concatenated", True):
        return weight[:, number * size : (number + 1) * size]
    return weight[:, number::2]


def _is_transposed(experts: Any) -> bool:
    # Llama 4's say nothing.
    return bool(getattr(experts, "is_transposed", type(experts).__name__ == "Llama4TextExperts"))


_LEFT_OUT = ("gate", "router", "shared_expert_gate")


def _described(base: Path) -> BaseFacts:
    """Return the facts of a base from transformers' class, whose weights are not read."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(base)
    with torch.device("meta"):
        decoder = _class_of(config).from_config(config)
    modules, experts = {}, {}
    for name, module in decoder.named_modules():
        if ".layers." not in name or "vision" in name or name.rpartition(".")[2] in _LEFT_OUT:
            continue
        if isinstance(module, torch.nn.Linear):
            modules[name] = (module.in_features, module.out_features)
        elif name.endswith("experts") and isinstance(getattr(module, "down_proj", None), torch.nn.Parameter):
            leaves = ("gate_proj", "up_proj") if hasattr(module, "gate_up_proj") else ("up_proj",)
            parts = {leaf: _part(module, leaf) for leaf in (*leaves, "down_proj")}
            sizes = {leaf: (part.shape[2], part.shape[1]) for leaf, part in parts.items()}
            experts[name] = ExpertsFacts(count=module.down_proj.shape[0], projections=sizes)
    targets = {leaf_of(name) for name in modules}.union(*(each.projections for each in experts.values()))
    return BaseFacts(
        name=BaseName("tiny"),
        digest=Digest("sha256:" + "0" * 64),
        architecture=config.architectures[0],
        vocab_size=config.get_text_config().vocab_size,
        max_context=256,
        targets=tuple(sorted(targets)),
        modules=modules,
        max_rank=8,
        experts=experts,
    )
