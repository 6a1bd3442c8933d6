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
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mint_common.adapters_format.base_facts import BaseFacts
from services.trainer.adapters.lora.experts import LoraExperts
from services.trainer.adapters.lora.modules import LoraLinear
from services.trainer.core.losses.mismatch import out_of_route, replayed_mask


@dataclass(slots=True, kw_only=True)
class RouteReplay:
    """The recorded routes of one pass, -1 where missing, and the routers' own choices."""

    routes_XYK: Tensor
    replays: bool
    chosen: dict[int, Tensor] = field(default_factory=dict)

    def chosen_routes(self) -> Tensor:
        """Return the routers' own choices as routes."""
        return torch.stack([self.chosen[layer] for layer in sorted(self.chosen)], dim=1)

    def judge(self, where_T: Tensor, *, experts: int) -> tuple[Tensor, Tensor]:
        """Return for target tokens whether they were replayed, and the share of their route not the own."""
        routes_TYK = self.routes_XYK[where_T]
        chosen_TYK = self.chosen_routes()[where_T]
        return replayed_mask(routes_TYK, experts=experts), out_of_route(chosen_TYK, routes_TYK)


class RoutedGate(nn.Module):  # type: ignore[misc]  # torch is untyped for mypy here
    """A frozen router; with a replay it chooses the recorded experts of tokens that have some.

    The router's own code computes the answer, whatever that consists of: only its choice is replaced.
    """

    def __init__(self, base: nn.Module, layer: int, experts: int) -> None:
        super().__init__()
        self.base = base
        self.layer = layer
        self.experts = experts
        self.replay: RouteReplay | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # a router's own arguments and answer
        """Return the router's answer."""
        if self.replay is None:
            return self.base(*args, **kwargs)
        route_XK = self.replay.routes_XYK[:, self.layer] if self.replay.replays else None
        with _Choice(self.experts, route_XK) as choice:
            answer = self.base(*args, **kwargs)
        if choice.own_XK is None:
            problem = f"{type(self.base).__name__} does not choose with topk"
            raise RouterOpaque(problem)
        self.replay.chosen[self.layer] = choice.own_XK
        if route_XK is None or not choice.has_groups:
            return answer
        # Its own choice is that within its own groups; the answer is that within those of the route.
        with _Choice(self.experts, choice.taken_XK, replaces_groups=True):
            return self.base(*args, **kwargs)


class RouterOpaque(Exception):
    """Routes cannot be replayed: there is no router, or it does not choose with `topk`."""


class _Choice(TorchFunctionMode):  # type: ignore[misc]  # as above
    """Notes which experts a router takes, and replaces them by those of a route where it has some.

    Every router takes the greatest of its scores ``[X, E]``, some of groups of experts ``[X, G]`` before.
    """

    def __init__(self, experts: int, route_XK: Tensor | None, *, replaces_groups: bool = False) -> None:
        super().__init__()
        self.own_XK: Tensor | None = None
        self.taken_XK: Tensor | None = None
        self.has_groups = False
        self._experts = experts
        self._route_XK = route_XK
        self._replaces_groups = replaces_groups

    def __torch_function__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # torch's own protocol
        """Carry out a function of torch, all but `topk` as it is."""
        if func.__name__ != "topk" or args[0].dim() != 2:
            return func(*args, **(kwargs or {}))
        scores, route_XK = args[0], self._route_XK
        if scores.shape[1] != self._experts:
            self.has_groups |= scores.shape[1] > 1
            if route_XK is None or not self._replaces_groups:
                return func(*args, **(kwargs or {}))
            return _picked(scores, route_XK // (self._experts // scores.shape[1]))
        if route_XK is None:
            found = func(*args, **(kwargs or {}))
            self.own_XK = found.indices
            return found
        with torch.no_grad():
            self.own_XK = func(*args, **(kwargs or {})).indices
        known_X1 = ((route_XK >= 0) & (route_XK < self._experts)).all(dim=1, keepdim=True)
        self.taken_XK = torch.where(known_X1, route_XK, self.own_XK)
        return _picked(scores, self.taken_XK)


def _picked(scores: Tensor, index: Tensor) -> Any:  # torch's own type
    return torch.return_types.topk((scores.gather(1, index), index))


def wrap_routers(model: nn.Module, facts: BaseFacts) -> list[RoutedGate]:
    """Replace the router of every routed layer, in the order of layers. Raises RouterOpaque."""
    gates: list[RoutedGate] = []
    for name in sorted(facts.experts, key=_layer_number):
        block = model.get_submodule(name.rpartition(".")[0])
        count = facts.experts[name].count
        leaf = next((leaf for leaf, child in block.named_children() if _is_router(child, count)), None)
        if leaf is None:
            problem = f"no router is beside {name}"
            raise RouterOpaque(problem)
        gates.append(RoutedGate(getattr(block, leaf), len(gates), count))
        setattr(block, leaf, gates[-1])
    return gates


def _is_router(module: nn.Module, experts: int) -> bool:
    """Return whether a neighbour of experts has a row for each of them, and no module for LoRA."""
    if any(isinstance(child, LoraLinear | LoraExperts) for child in module.modules()):
        return False
    return any(one.dim() == 2 and one.shape[0] == experts for one in module.parameters())


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
