"""The policy gradient of a managed job: what the request changes of its algorithm's, completely checked."""

from mint_common.algorithms import Algorithm
from mint_common.bounds import check_between
from mint_common.errors import InvalidField
from mint_common.events import JobSpec, Overlong, PolicyGradient
from mint_common.events.policy_gradient import BOUNDS, PolicyLoss
from mint_common.job_requests import GradientBody, OverlongBody

STALE_LOSS: PolicyLoss = "dppo"
"""Default loss of jobs that train on samples of older weights, unless their algorithm has one (arXiv
2602.04879)."""
MAX_EPOCHS, MAX_UPDATES = 16, 64
"""Maximum epochs and optimizer steps of a wave: what is learnt from the same samples wears off."""
MAX_RATIO = 1e4
MAX_FACTOR = 1e3


def plan_gradient(
    wish: GradientBody | None, algorithm: Algorithm, spec: JobSpec, *, field: str
) -> PolicyGradient | None:
    """Return a job's complete gradient, None for an algorithm without one; ``field`` is its place.

    Raises InvalidField, also for a loss that cannot train on samples of older weights.
    """
    own = algorithm.gradient
    if own is None:
        if wish is not None:
            raise InvalidField(
                field=field, problem=f"is not of {algorithm.name}, which has no policy gradient"
            )
        return None
    wish = wish or GradientBody()
    epochs, minibatches = _updates(wish, own, spec, field=field)
    is_stale = spec.staleness > 0 or epochs * minibatches > 1
    loss = wish.loss or (STALE_LOSS if is_stale and not algorithm.fixes_loss else own.loss)
    check_stale_loss(loss, staleness=spec.staleness, updates=epochs * minibatches, field=f"{field}.loss")
    if wish.kl is not None and not spec.kl_coefficient:
        raise InvalidField(field=f"{field}.kl", problem="has no effect: kl_coefficient is 0")
    if algorithm.has_teacher:
        _check_no_rewards(wish, algorithm, field=field)
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
        epochs=epochs,
        minibatches=minibatches,
    )


def _check_no_rewards(wish: GradientBody, algorithm: Algorithm, *, field: str) -> None:
    """Refuse what acts on rewards, which a teacher replaces. Raises InvalidField."""
    acts = {
        "advantage": wish.advantage is not None,
        "kl": wish.kl == "reward",
        "overlong.buffer": wish.overlong is not None and wish.overlong.buffer > 0,
    }
    for name, is_given in acts.items():
        if is_given:
            problem = f"has no effect: {algorithm.name} learns from a teacher, not from rewards"
            raise InvalidField(field=f"{field}.{name}", problem=problem)


def check_stale_loss(loss: PolicyLoss, *, staleness: int, updates: int, field: str) -> None:
    """Refuse unclipped importance sampling of samples that older weights answered. Raises InvalidField.

    They are those of older revisions, and all but the first of a wave's ``updates``, its optimizer steps.
    Its weights have no bound, and few tokens decide a step.
    """
    if loss != "is" or (not staleness and updates == 1):
        return
    others = ", ".join(name for name in BOUNDS if name != "is")
    samples = f"samples that are {staleness} steps old"
    if not staleness:
        samples = f"the same samples in {updates} optimizer steps"
    problem = f"is does not bound the ratios of {samples}: use one of {others}"
    raise InvalidField(field=field, problem=problem)


def _updates(wish: GradientBody, own: PolicyGradient, spec: JobSpec, *, field: str) -> tuple[int, int]:
    """Return the epochs and the minibatches of a wave. Raises InvalidField."""
    epochs = own.epochs if wish.epochs is None else wish.epochs
    minibatches = own.minibatches if wish.minibatches is None else wish.minibatches
    check_between(f"{field}.epochs", epochs, 1, MAX_EPOCHS)
    check_between(f"{field}.minibatches", minibatches, 1, min(spec.prompts_per_step, MAX_UPDATES))
    if epochs * minibatches > MAX_UPDATES:
        problem = f"times epochs is {epochs * minibatches}: at most {MAX_UPDATES} optimizer steps a wave"
        raise InvalidField(field=f"{field}.minibatches", problem=problem)
    return epochs, minibatches


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
