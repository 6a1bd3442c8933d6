"""The losses that a client's pass may name; those of managed jobs are in `core/algorithms.py`.

A new one is a file beside this, a line here, and a float64 reference in tests.
"""

from collections.abc import Mapping

from mint_common.training import LossName
from services.trainer.core.losses.cispo import CISPO
from services.trainer.core.losses.cross_entropy import CROSS_ENTROPY
from services.trainer.core.losses.dro import DRO
from services.trainer.core.losses.gspo import GSPO
from services.trainer.core.losses.importance_sampling import IMPORTANCE_SAMPLING
from services.trainer.core.losses.loss import TokenLoss
from services.trainer.core.losses.ppo import PPO

PASS_LOSSES: Mapping[LossName, TokenLoss] = {
    "cross_entropy": CROSS_ENTROPY,
    "importance_sampling": IMPORTANCE_SAMPLING,
    "ppo": PPO,
    "cispo": CISPO,
    "dro": DRO,
    "gspo": GSPO,
}
