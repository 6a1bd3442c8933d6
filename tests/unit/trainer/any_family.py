"""Any family's tiny model with policies: its facts from the live model, and transformers' own numbers.

The reference has B @ A added to its weights. Its gradients of those weights give those of A and B:
dL/dB = s dL/dW A', dL/dA = s B' dL/dW.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.names import leaf_of
from mint_common.ids import BaseName, Digest
from services.standalone.adapters.meta_model import MetaModel
from services.trainer.adapters.lora.tensors import LoraTensors
from services.trainer.adapters.model.decoder import find_decoder
from services.trainer.core.batch import Row

from .plain_peft import gradients_of, row_logprobs

PROMPT, ROW = 24, 20
"""Together longer than every window and chunk of a tiny model."""


def facts_of(model: PreTrainedModel) -> BaseFacts:
    """Return the facts of a live model: every linear of its layers that is no router, and its experts."""
    layers = find_decoder(model).layers
    prefix = next(name for name, module in model.named_modules() if module is layers)
    meta = MetaModel(
        architecture=type(model).__name__,
        model=model,
        text=model.config.get_text_config(),
        layers={f"{prefix}.{index}": layer for index, layer in enumerate(layers)},
    )
    modules, experts = meta.linears(), meta.experts()
    leaves = {leaf_of(name) for name in modules}
    return BaseFacts(
        name=BaseName("random"),
        digest=Digest("sha256:" + "0" * 64),
        architecture=meta.architecture,
        vocab_size=264,
        max_context=256,
        targets=tuple(sorted(leaves.union(*(one.projections for one in experts.values())))),
        modules=modules,
        max_rank=16,
        experts=experts,
    )


def merged_parts(
    model: PreTrainedModel, tensors: LoraTensors
) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Yield each site's name, its part of the model's weight as B @ A has it, and its A and B."""
    parameters, experts = dict(model.named_parameters()), facts_of(model).experts
    views = {
        (part.site.name, part.half): (part.site, view)
        for part, (_, view) in zip(tensors.layout.parts, tensors.named(), strict=True)
    }
    for (name, half), (site, a) in views.items():
        if half == "B":
            continue
        b = views[name, "B"][1]
        if not site.count:
            yield name, parameters[f"{name}.weight"], a, b
            continue
        layout = experts[site.module]
        fused = layout.gated and site.projection != "down_proj"
        whole = parameters[f"{site.module}.{'gate_up_proj' if fused else site.projection}"]
        whole = whole.transpose(1, 2) if layout.transposed else whole
        if fused:
            number = int(site.projection == "up_proj")
            whole = whole[:, number::2] if layout.interleaved else whole.chunk(2, dim=1)[number]
        yield name, whole, a, b


def merge(model: PreTrainedModel, tensors: LoraTensors) -> PreTrainedModel:
    """Add a policy's update to a model's own weights."""
    with torch.no_grad():
        for _, weight, a, b in merged_parts(model, tensors):
            weight.add_((b @ a * tensors.scale).to(weight.dtype))
    return model


def plain_scores(model: PreTrainedModel, rows: Sequence[Row]) -> Tensor:
    """Return log-probabilities of rows, one at a time."""
    return torch.cat([row_logprobs(model, row) for row in rows])


def plain_gradients(model: PreTrainedModel, tensors: LoraTensors, loss: Tensor) -> dict[str, Tensor]:
    """Return the gradients of a policy that is merged into a model, by the name of its part."""
    for weight in model.parameters():
        weight.requires_grad_()
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight.data = torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        found = {}
        for name, gradient, a, b in merged_parts(model, tensors):
            found[name, "A"] = tensors.scale * b.transpose(-1, -2) @ gradient.float()
            found[name, "B"] = tensors.scale * gradient.float() @ a.transpose(-1, -2)
    return {part.name: found[part.site.name, part.half] for part in tensors.layout.parts}


def farthest(tensors: LoraTensors, expected: dict[str, Tensor]) -> float:
    """Return the largest difference of a policy's gradient, relative to the largest entry of a part."""
    return max(
        float((gradient - expected[name]).abs().max() / expected[name].abs().max().clamp(min=1e-6))
        for name, gradient in gradients_of(tensors)
    )


def rows_behind_a_prompt(seed: int, *, rows: int = 2, vocabulary: int = 256) -> tuple[Row, ...]:
    """Return rows behind one prompt."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, vocabulary, (count,), generator=generator).tolist())

    prompt = draw(PROMPT)
    return tuple(Row(prompt=prompt, tokens=draw(ROW - n), logprobs=(), advantage=1.0) for n in range(rows))
