"""The policy gradient of a managed job: what the request changes of its algorithm's, completely checked."""

from mint_common.algorithms import Algorithm
from mint_common.bounds import check_between
from mint_common.errors import InvalidField
from mint_common.events import JobSpec, Overlong, PolicyGradient
from mint_common.events.policy_gradient import BOUNDS, PolicyLoss
from mint_common.job_requests import GradientBody, OverlongBody

STALE_LOSS: PolicyLoss = "dppo"
"""Default loss of jobs that sample ahead, unless their algorithm has one (arXiv 2602.04879)."""
MAX_RATIO = 1e4
MAX_FACTOR = 1e3


def plan_gradient(
    wish: GradientBody | None, algorithm: Algorithm, spec: JobSpec, *, field: str
) -> PolicyGradient | None:
    """Return a job's complete gradient, None for an algorithm without one; ``field`` is its place.

    Raises InvalidField, also for a loss that cannot train on samples of older revisions.
    """
    own = algorithm.gradient
    if own is None:
        if wish is not None:
            raise InvalidField(
                field=field, problem=f"is not of {algorithm.name}, which has no policy gradient"
            )
        return None
    wish = wish or GradientBody()
    loss = wish.loss or (STALE_LOSS if spec.staleness and not algorithm.fixes_loss else own.loss)
    check_stale_loss(loss, staleness=spec.staleness, field=f"{field}.loss")
    if wish.kl is not None and not spec.kl_coefficient:
        raise InvalidField(field=f"{field}.kl", problem="has no effect: kl_coefficient is 0")
    usual = (own.clip_low, own.clip_high) if loss == own.loss else BOUNDS[loss]
    low, high = (
        _bound(name, value, default, loss=loss, field=field)
        for name, value, default in zip(
            ("clip_low", "clip_high"), (wish.clip_low, wish.clip_high), usual, strict=True
        )
    )
    return PolicyGradient(
        advantage=wish.advantage or own.advantage,
        loss=loss,
        aggregation=wish.aggregation or own.aggregation,
        clip_low=low,
        clip_high=high,
        kl=wish.kl or own.kl,
        overlong=own.overlong if wish.overlong is None else _overlong(wish.overlong, spec, field=field),
    )


def check_stale_loss(loss: PolicyLoss, *, staleness: int, field: str) -> None:
    """Refuse unclipped importance sampling of older revisions' samples. Raises InvalidField.

    Its weights have no bound, and few tokens decide a step.
    """
    if staleness and loss == "is":
        others = ", ".join(name for name in BOUNDS if name != "is")
        problem = (
            f"is does not bound the ratios of samples that are {staleness} steps old: use one of {others}"
        )
        raise InvalidField(field=field, problem=problem)


def _bound(
    name: str, wish: float | None, usual: float | None, *, loss: PolicyLoss, field: str
) -> float | None:
    if wish is None:
        return usual
    if usual is None:
        raise InvalidField(field=f"{field}.{name}", problem=f"is not a bound of the loss {loss}")
    is_share = loss == "dppo" or name == "clip_low"
    check_between(f"{field}.{name}", wish, *((0.0, 1.0) if is_share else (1.0, MAX_RATIO)))
    return wish


def _overlong(wish: OverlongBody, spec: JobSpec, *, field: str) -> Overlong:
    if wish.buffer and spec.environment is not None:
        problem = "is for single answers: the turns of an environment have no common length"
        raise InvalidField(field=f"{field}.overlong.buffer", problem=problem)
    check_between(f"{field}.overlong.buffer", wish.buffer, 0, spec.max_new_tokens)
    check_between(f"{field}.overlong.factor", wish.factor, 0.0, MAX_FACTOR)
    if wish.factor != 1.0 and not wish.buffer:
        raise InvalidField(field=f"{field}.overlong.factor", problem="has no effect without a buffer")
    return Overlong(buffer=wish.buffer, factor=wish.factor, mask=wish.mask)
