"""Direct preference optimisation. N = pairs."""
# ruff: noqa: N803  # tensors carry their shape in their name

from torch import Tensor
from torch.nn.functional import logsigmoid

from services.trainer.core.losses.loss import Config, PairLoss


def dpo(chosen_N: Tensor, rejected_N: Tensor, config: Config) -> Tensor:
    """Return -sum_n log sigmoid(beta (c_n - d_n)).

    Rafailov et al. 2023 (arXiv 2305.18290), eq. 7. ``chosen_N`` and ``rejected_N`` are the sums over a
    completion's tokens of (policy's - base's) log-probability; the base is the reference model, which is the
    policy with its adapter switched off.
    """
    return -logsigmoid(config["beta"] * (chosen_N - rejected_N)).sum()


def _measures(chosen_N: Tensor, rejected_N: Tensor, config: Config) -> dict[str, float]:
    """Return how much more the policy prefers the chosen answers than the base does."""
    beta = config["beta"]
    return {
        "preference_accuracy:mean": float((chosen_N > rejected_N).float().mean()),
        "preference_margin:mean": float((beta * (chosen_N - rejected_N)).mean()),
        "chosen_reward:mean": beta * float(chosen_N.mean()),
        "rejected_reward:mean": beta * float(rejected_N.mean()),
        "pairs:sum": float(len(chosen_N)),
    }


DPO = PairLoss(
    name="dpo",
    users=frozenset({"managed"}),
    aggregation="pair_mean",
    needed_config=("beta",),
    formula=dpo,
    measures=_measures,
)
