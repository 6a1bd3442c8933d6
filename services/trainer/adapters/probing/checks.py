"""The trainer's own code on a small base, beside plain transformers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mint_common.adapters_format import BaseFacts, build_adapter, served_targets
from mint_common.datasets import RowProblem
from mint_common.events import LoraSpec
from mint_common.ids import PolicyId
from mint_common.probing import (
    ADAPTERS,
    BARE,
    BOTH,
    Difference,
    EngineAnswer,
    EngineFindings,
    HandOver,
    ProbeRequest,
    TrainerFindings,
)
from services.trainer.adapters.lora.tensors import LoraTensors, folded_arrays, new_lora
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.probing.reference import Reference
from services.trainer.adapters.rendering.transformers_template import open_template
from services.trainer.core.batch import Row
from services.trainer.core.packing import PackedSequence, pack_rows

_B_STD = 0.02
"""Moves log-probabilities by tenths of a nat, in weights whose outputs are of size one."""

Adapters = Mapping[str, LoraTensors]


def make_adapters(facts: BaseFacts, folder: Path, *, rank: int) -> Adapters:
    """Write exports of random adapters, two on every target and one on each alone, and return them."""
    targets = served_targets(facts)
    wanted = dict.fromkeys(BOTH, targets) | {target: (target,) for target in targets}
    adapters = {}
    for seed, (name, own) in enumerate(wanted.items()):
        spec = LoraSpec(rank=rank, alpha=2.0 * rank, targets=tuple(own), seed=seed)
        adapters[name] = lora = new_lora(facts, spec)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for part, view in zip(lora.layout.parts, lora.layout.cut(lora.leaf), strict=True):
                std = _B_STD if part.half == "B" else part.site.width_in**-0.5
                view.copy_(torch.randn(view.shape, generator=generator) * std)
        files = build_adapter(
            facts=facts,
            policy_id=PolicyId("pol"),
            step=seed,
            parent=None,
            rank=rank,
            tensors=folded_arrays(lora),
        )
        place = folder / ADAPTERS / name
        place.mkdir(parents=True)
        for file, data in files.files.items():
            (place / file).write_bytes(data)
    return adapters


def check_trainer(
    base: ResidentBase, reference: Reference, adapters: Adapters, request: ProbeRequest
) -> TrainerFindings:
    """Return how far two policies in one pass are from transformers, rows alone and behind one prompt."""
    policies = [adapters[name] for name in BOTH]
    rows = [_row(request.prompt, row) for row in request.rows]
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(sum(map(len, request.rows)), generator=generator) for _ in policies]
    expected, slopes = zip(
        *(_expected(reference, lora, request, own) for lora, own in zip(policies, weights, strict=True)),
        strict=True,
    )

    def passed(max_length: int) -> tuple[float, float]:
        lines = [
            line
            for number in range(len(policies))
            for line in pack_rows(rows, policy=number, max_length=max_length)
        ]
        return _pass(base, lines, policies, expected=expected, slopes=slopes, weights=weights)

    outputs, gradients = passed(0)
    shared = shared_gradients = None
    if base.rules.max_shared:
        shared, shared_gradients = passed(base.rules.max_shared)
    bare = torch.cat([reference.logprobs((*request.prompt, *row))[-len(row) :] for row in request.rows])
    return TrainerFindings(
        outputs=outputs,
        shared=shared,
        gradients=gradients,
        shared_gradients=shared_gradients,
        effect=min((one - bare).abs().max().item() for one in expected),
        targets=served_targets(base.facts),
        route_problem=base.route_problem,
    )


def _row(
    prompt: Sequence[int], tokens: Sequence[int], routes: bytes = b"", prompt_routes: bytes = b""
) -> Row:
    return Row(
        prompt=tuple(prompt),
        tokens=tuple(tokens),
        logprobs=(),
        advantage=1.0,
        prompt_experts=prompt_routes,
        experts=routes,
    )


def _expected(
    reference: Reference, lora: LoraTensors, request: ProbeRequest, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of the rows' tokens, and the gradient of their weighted sum."""
    leaf = lora.leaf.detach().clone().requires_grad_()
    found = torch.cat(
        [reference.logprobs((*request.prompt, *row), lora, leaf)[-len(row) :] for row in request.rows]
    )
    (found * weights).sum().backward()
    assert leaf.grad is not None
    return found.detach(), leaf.grad


def _pass(
    base: ResidentBase,
    lines: Sequence[PackedSequence],
    policies: Sequence[LoraTensors],
    *,
    expected: Sequence[Tensor],
    slopes: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> tuple[float, float]:
    """Return the largest difference of one pass in nats, and that of its gradients, relatively."""
    for lora in policies:
        lora.leaf.grad = None
    found = base.score(lines, policies).logprobs_T
    (found * torch.cat(tuple(weights))).sum().backward()
    outputs = (found.detach() - torch.cat(tuple(expected))).abs().max().item()
    gradients = [
        (lora.leaf.grad - slope).abs().max() / slope.abs().max()
        for lora, slope in zip(policies, slopes, strict=True)
    ]
    return outputs, torch.stack(gradients).max().item()


def compare(
    base: ResidentBase | None,
    folder: Path,
    reference: Reference,
    adapters: Adapters,
    engine: EngineFindings,
) -> HandOver:
    """Return how far the engine's answers are from transformers, and from the trainer if it runs."""
    narrow = None
    if engine.dtype != "float32":
        narrow = Reference(folder, reference.facts, dtype=getattr(torch, engine.dtype))
    with torch.no_grad():
        found = {
            answer.adapter: _difference(base, reference, narrow, adapters.get(answer.adapter), answer)
            for answer in engine.answers
        }
    return HandOver(differences=found)


def _difference(
    base: ResidentBase | None,
    reference: Reference,
    narrow: Reference | None,
    lora: LoraTensors | None,
    answer: EngineAnswer,
) -> Difference:
    served = torch.tensor(answer.logprobs)
    wanted = reference.logprobs(answer.tokens, lora)
    bare = wanted if lora is None else reference.logprobs(answer.tokens)
    apart, trained, routed = _apart(served, wanted), None, None
    replays = bool(answer.routes) and base is not None and not base.route_problem
    if base is not None and narrow is not None and replays:
        # Roundings choose other experts, which is no fault: the trainer replays the engine's choice.
        trained = _apart(served, _scored(base, answer, lora, replays=True))
        apart = torch.tensor([apart, trained]).min().item()  # NaN if one of them is
    elif base is not None and answer.adapter in (*BOTH, BARE):
        scored = _scored(base, answer, lora, replays=False)
        trained = _apart(served, scored)
        if replays:
            routed = _apart(scored, _scored(base, answer, lora, replays=True))
    return Difference(
        reference=apart,
        trainer=trained,
        own=0.0 if narrow is None else _apart(narrow.logprobs(answer.tokens, lora), wanted),
        effect=_apart(wanted, bare),
        routed=routed,
    )


def _scored(base: ResidentBase, answer: EngineAnswer, lora: LoraTensors | None, *, replays: bool) -> Tensor:
    size = len(answer.routes) // (len(answer.tokens) - 1) if replays else 0
    routes, first = answer.routes[size:] if replays else b"", answer.routes[:size]
    row = _row(answer.tokens[:1], answer.tokens[1:], routes, first)
    lines = pack_rows([row], policy=0, max_length=0)
    scores: Tensor = base.score(lines, None if lora is None else [lora]).logprobs_T
    return scores


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def rendered(
    folder: Path, chats: Sequence[Sequence[Mapping[str, str]]]
) -> tuple[tuple[int, ...] | None, ...]:
    """Return the tokens of conversations before an answer, as rows of training are rendered."""
    template = open_template(folder)
    found: list[tuple[int, ...] | None] = []
    for chat in chats:
        try:
            found.append(
                template.encode_rendered(
                    template.render([dict(each) for each in chat], None, begins_answer=True)
                )
            )
        except RowProblem:
            found.append(None)
    return tuple(found)
