"""Routers that replay the sampler's choice of experts (R3), and measure how often their own would differ.

A token's route is its experts in each routed layer. Ma et al. 2025 (arXiv 2510.11370): replay
the sampler's routes in training; the weights of the replayed experts are the trainer's own, so that the
gradient is too. X = tokens of a pass, Y = routed layers, K = experts of a token, T = target tokens.
"""
# ruff: noqa: N803, N806, N815  # tensors carry their shape in their name

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mint_common.adapters_format.base_facts import BaseFacts
from services.trainer.core.losses.mismatch import out_of_route, replayed_mask


@dataclass(slots=True, kw_only=True)
class RouteReplay:
    """The recorded routes of one pass, -1 where missing, and the routers' own choices."""

    routes_XYK: Tensor
    replays: bool
    chosen: dict[int, Tensor] = field(default_factory=dict)

    def judge(self, where_T: Tensor, *, experts: int) -> tuple[Tensor, Tensor]:
        """Return for target tokens whether they were replayed, and the share of their route not the own."""
        routes_TYK = self.routes_XYK[where_T]
        chosen_XYK = torch.stack([self.chosen[layer] for layer in sorted(self.chosen)], dim=1)
        return replayed_mask(routes_TYK, experts=experts), out_of_route(chosen_XYK[where_T], routes_TYK)


class RoutedGate(nn.Module):  # type: ignore[misc]  # torch is untyped for mypy here
    """A frozen router; with a replay it answers with the recorded experts of tokens that have some."""

    def __init__(self, base: nn.Module, layer: int) -> None:
        super().__init__()
        self.base = base
        self.layer = layer
        self.replay: RouteReplay | None = None

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, weights and indices of each token's experts."""
        logits, weights_XK, experts_XK = self.base(hidden)
        if self.replay is None:
            return logits, weights_XK, experts_XK
        self.replay.chosen[self.layer] = experts_XK
        if not self.replay.replays:
            return logits, weights_XK, experts_XK
        route_XK = self.replay.routes_XYK[:, self.layer]
        known_X1 = ((route_XK >= 0) & (route_XK < logits.shape[-1])).all(dim=1, keepdim=True)
        route_XK = torch.where(known_X1, route_XK, experts_XK)
        replayed_XK = _weights(self.base, logits, route_XK).to(weights_XK.dtype)
        return logits, torch.where(known_X1, replayed_XK, weights_XK), route_XK


def _weights(router: nn.Module, logits_XE: Tensor, experts_XK: Tensor) -> Tensor:
    """Return the weights that a router gives to chosen experts: those of its own forward pass."""
    if hasattr(router, "e_score_correction_bias"):
        scores_XE = logits_XE.float().sigmoid()
    else:
        scores_XE = logits_XE.float().softmax(dim=-1)
    weights_XK = scores_XE.gather(1, experts_XK)
    if getattr(router, "norm_topk_prob", False):
        weights_XK = weights_XK / (weights_XK.sum(dim=-1, keepdim=True) + 1e-20)
    return weights_XK * getattr(router, "routed_scaling_factor", 1.0)


def wrap_routers(model: nn.Module, facts: BaseFacts) -> list[RoutedGate]:
    """Replace the router of every routed layer, in the order of layers."""
    gates: list[RoutedGate] = []
    for name in sorted(facts.experts, key=_layer_number):
        block = model.get_submodule(name.rpartition(".")[0])
        gates.append(RoutedGate(block.gate, len(gates)))
        block.gate = gates[-1]
    return gates


def _layer_number(name: str) -> int:
    found = re.search(r"\.(\d+)\.", name)
    assert found is not None, name
    return int(found[1])


@contextmanager
def replayed(gates: Sequence[RoutedGate], replay: RouteReplay | None) -> Iterator[None]:
    """Replay routes in forward passes within the block."""
    for gate in gates:
        gate.replay = replay
    try:
        yield
    finally:
        for gate in gates:
            gate.replay = None


def read_routes(data: bytes, *, tokens: int, layers: int, top_k: int) -> Tensor:
    """Return recorded routes ``[tokens, layers, top_k]``, -1 throughout where they do not fit the base."""
    if len(data) != 2 * tokens * layers * top_k or not data:
        return torch.full((tokens, layers, top_k), -1)
    flat = torch.frombuffer(bytearray(data), dtype=torch.uint16).to(torch.long)
    return flat.view(tokens, layers, top_k)
