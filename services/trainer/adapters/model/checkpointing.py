"""Recompute layers in the backward pass (Chen et al. 2016, arXiv 1604.06174).

A layer stores only its input. Recomputed, it uses the policies and routes of its forward pass, which the
block that applied them has removed by then.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from services.trainer.adapters.lora.experts import LoraExperts
from services.trainer.adapters.lora.modules import LoraLinear, applied
from services.trainer.adapters.model.routing import RoutedGate, replayed


def checkpoint_layers(layers: nn.ModuleList, is_due: Callable[[], bool]) -> None:
    """Compute each layer twice where gradients are wanted and it is due in the present pass.

    Nothing is drawn, so both are bitwise equal.
    """
    for layer in layers:
        layer.forward = _checkpointed(layer, is_due)


def _checkpointed(
    layer: nn.Module, is_due: Callable[[], bool]
) -> Callable[..., Any]:  # a layer's own arguments and results
    compute = layer.forward

    @wraps(compute)
    def forward(*args: Any, **kwargs: Any) -> Any:  # as above
        if not (torch.is_grad_enabled() and is_due()):
            return compute(*args, **kwargs)
        return checkpoint(
            compute,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), _again(layer)),
            **kwargs,
        )

    return forward


def _again(layer: nn.Module) -> AbstractContextManager[None]:
    """Return a block in which a layer has its current mix and replay applied again."""
    slots = [one for one in layer.modules() if isinstance(one, LoraLinear | LoraExperts)]
    gates = [one for one in layer.modules() if isinstance(one, RoutedGate)]
    mix = next((slot.mix for slot in slots), None)
    replay = next((gate.replay for gate in gates), None)

    @contextmanager
    def applied_again() -> Iterator[None]:
        with applied(slots, mix), replayed(gates, replay):
            yield

    return applied_again()
