"""Plain transformers with adapters added to its weights: what trainer and engine are compared with.

E = experts, O = outputs, I = inputs, L = tokens of a sequence.
"""
# ruff: noqa: N806  # tensors carry their shape in their name

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call

from mint_common.adapters_format import BaseFacts
from services.trainer.adapters.lora.tensors import LoraTensors
from services.trainer.adapters.model.loading import load_model


class Reference:
    """A model of transformers in a dtype, its attention computed eagerly."""

    def __init__(self, folder: Path, facts: BaseFacts, *, dtype: torch.dtype = torch.float32) -> None:
        self.facts = facts
        model = load_model(folder, dtype=dtype, attn_implementation="eager")
        self._model = model.requires_grad_(requires_grad=False).eval()

    def logprobs(
        self, tokens: Sequence[int], lora: LoraTensors | None = None, leaf: Tensor | None = None
    ) -> Tensor:
        """Return those of every token but the first, with an adapter of ``leaf``, else its own."""
        ids_1L = torch.tensor([tokens])
        changed = {} if lora is None else self._weights(lora, lora.leaf.detach() if leaf is None else leaf)
        called = {"input_ids": ids_1L, "use_cache": False}
        logits = functional_call(self._model, changed, kwargs=called).logits[0, :-1].float()
        logprobs: Tensor = logits.log_softmax(-1).gather(-1, ids_1L[0, 1:, None])[:, 0]
        return logprobs

    def _weights(self, lora: LoraTensors, leaf: Tensor) -> Mapping[str, Tensor]:
        """Return the parameters that an adapter changes, with B @ A added to them."""
        pieces = zip(lora.layout.parts, lora.layout.cut(leaf), strict=True)
        halves = {(part.site.name, part.half): (part.site, view) for part, view in pieces}
        deltas: dict[str, Tensor] = {}
        routed: dict[str, dict[str, Tensor]] = {}
        for (name, half), (site, a_RI) in halves.items():
            if half != "A":
                continue
            delta = lora.scale * halves[name, "B"][1] @ a_RI
            if site.count:
                routed.setdefault(site.module, {})[site.projection] = delta
            else:
                deltas[f"{site.module}.weight"] = delta
        for module, parts in routed.items():
            deltas |= self._of_experts(module, parts)
        weights = dict(self._model.named_parameters())
        return {name: weights[name] + delta.to(weights[name].dtype) for name, delta in deltas.items()}

    def _of_experts(self, module: str, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        experts = self.facts.experts[module]
        whole = {
            leaf: parts.get(leaf, torch.zeros(experts.count, outputs, inputs))
            for leaf, (inputs, outputs) in experts.projections.items()
        }
        if experts.gated:
            halves = whole.pop("gate_proj"), whole.pop("up_proj")
            is_mixed = experts.interleaved
            whole["gate_up_proj"] = torch.stack(halves, 2).flatten(1, 2) if is_mixed else torch.cat(halves, 1)
        return {
            f"{module}.{leaf}": delta.transpose(1, 2) if experts.transposed else delta
            for leaf, delta in whole.items()
        }
