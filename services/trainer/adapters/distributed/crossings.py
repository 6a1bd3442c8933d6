"""Borders of the parts of a pass that each rank computes separately (Shoeybi et al. 2019,
arXiv 1909.08053, section 3: f and g). Between an `Enter` and a `Leave` each rank has its own part.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Enter(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped for mypy here
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:  # torch's own objects are untyped
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # as above
        return _summed(gradient, ctx.group), None


class _Leave(torch.autograd.Function):  # type: ignore[misc]  # torch is untyped for mypy here
    @staticmethod
    def forward(ctx: Any, y: Tensor, group: Any) -> Tensor:  # torch's own objects are untyped
        del ctx
        return _summed(y, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # as above
        del ctx
        return gradient, None


def _summed(part: Tensor, group: Any) -> Tensor:  # torch's own objects are untyped
    """Return the sum of the ranks' parts, the same bits on every rank."""
    whole = part.contiguous().clone()
    dist.all_reduce(whole, group=group)
    return whole


def entering(group: Any) -> Callable[[Tensor], Tensor]:  # torch's own objects are untyped
    """Return the identity, whose gradient is the sum over the ranks."""
    return lambda x: _Enter.apply(x, group)


def leaving(group: Any) -> Callable[[Tensor], Tensor]:  # torch's own objects are untyped
    """Return the sum over the ranks, whose gradient is the identity."""
    return lambda y: _Leave.apply(y, group)
