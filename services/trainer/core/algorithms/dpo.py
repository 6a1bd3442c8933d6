"""Direct preference optimisation. N = pairs."""
# ruff: noqa: N806  # tensors carry their shape in their name

from torch import Tensor
from torch.nn.functional import logsigmoid

from services.trainer.core.algorithms.algorithm import TrainingAlgorithm, beta
from services.trainer.core.batch import build_dpo_batch
from services.trainer.core.losses.loss import Comparison, Config, PreferenceLoss


def dpo(compared: Comparison, config: Config) -> Tensor:
    """Return -sum_n log sigmoid(beta (c_n - d_n)) of the pairs of a chosen and a rejected answer.

    Rafailov et al. 2023 (arXiv 2305.18290), eq. 7. c and d are the sums over a completion's tokens of
    (policy's - base's) log-probability; the base is the reference model, which is the policy with its adapter
    switched off.
    """
    return -logsigmoid(config["beta"] * (compared.wanted_N - compared.unwanted_M)).sum()


def _measures(compared: Comparison, config: Config) -> dict[str, float]:
    """Return how much more the policy prefers the chosen answers than the base does."""
    weight, chosen_N, rejected_N = config["beta"], compared.wanted_N, compared.unwanted_M
    return {
        "preference_accuracy:mean": float((chosen_N > rejected_N).float().mean()),
        "preference_margin:mean": float((weight * (chosen_N - rejected_N)).mean()),
        "chosen_reward:mean": weight * float(chosen_N.mean()),
        "rejected_reward:mean": weight * float(rejected_N.mean()),
        "pairs:sum": float(len(chosen_N)),
    }


DPO = PreferenceLoss(
    aggregation="pair_mean",
    formula=dpo,
    measures=_measures,
)

TRAINING = TrainingAlgorithm(loss=DPO, build_batch=build_dpo_batch, config=beta)
