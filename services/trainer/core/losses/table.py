"""The losses of clients' passes by name: `LossName` lists them, and each is a module of this package.

To add one: a name there, a module here whose constant is the name in capitals, and a reference in tests.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import get_args

from mint_common.training import LossName
from services.trainer.core.losses.loss import TokenLoss


def _loss(name: LossName) -> TokenLoss:
    loss: TokenLoss = getattr(import_module(f"services.trainer.core.losses.{name}"), name.upper())
    return loss


PASS_LOSSES: Mapping[LossName, TokenLoss] = {name: _loss(name) for name in get_args(LossName)}
