"""Every loss by its name. A new one is a file beside this, a line here, and a float64 reference in tests."""

from collections.abc import Mapping

from services.trainer.core.losses.cispo import CISPO
from services.trainer.core.losses.cross_entropy import CROSS_ENTROPY
from services.trainer.core.losses.dpo import DPO
from services.trainer.core.losses.dro import DRO
from services.trainer.core.losses.grpo import GRPO
from services.trainer.core.losses.gspo import GSPO
from services.trainer.core.losses.importance_sampling import IMPORTANCE_SAMPLING
from services.trainer.core.losses.kto import KTO
from services.trainer.core.losses.loss import Loss, TokenLoss
from services.trainer.core.losses.ppo import PPO
from services.trainer.core.losses.reverse_kl import REVERSE_KL

_ALL: tuple[Loss, ...] = (
    CROSS_ENTROPY,
    IMPORTANCE_SAMPLING,
    PPO,
    CISPO,
    DRO,
    GSPO,
    GRPO,
    DPO,
    KTO,
    REVERSE_KL,
)
LOSSES: Mapping[str, Loss] = {loss.name: loss for loss in _ALL}
PASS_LOSSES: Mapping[str, TokenLoss] = {
    loss.name: loss for loss in _ALL if isinstance(loss, TokenLoss) and "tinker" in loss.users
}
"""Those that a client's pass may name."""
