"""IPO as every service describes it, without torch."""

from mint_common.algorithms import Algorithm

ALGORITHM = Algorithm(
    name="ipo",
    training="examples.ipo.training:TRAINING",
    rows="dpo",
    pull="beta",
    default_pull=0.1,
    learning_rate=1e-5,
    metrics=("valid_loss", "valid_mean_token_accuracy"),
)
