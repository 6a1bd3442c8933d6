"""Bodies and queries of the catalog API, for the gateway's public routes and the registry's own.

The registry's routes are the public ones under ``/internal/tenants/<tenant>``, or under ``/internal`` for
bases and tenants. The caller comes in a header that only services send (`mint_common.authority`).
"""

from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StringConstraints,
)
from pydantic.config import JsonDict

from mint_common.catalog import FULL_SCOPES, RevisionState, RuleChoice, Scope
from mint_common.ids import Digest
from mint_common.names import AUTOMATIC_ACTORS, BASE_NAME_PATTERN, MAX_LIMIT, NAME_PATTERN

_NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"
_MAX_VALUE = 1e300

Label = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_NO_CONTROLS)]
"""A short text that people read."""
PolicyName = Annotated[str, Field(json_schema_extra={"pattern": NAME_PATTERN})]
BaseChoice = Annotated[str, Field(json_schema_extra={"pattern": BASE_NAME_PATTERN})]
"""Names of things that exist: the pattern is shown and not checked, because another name is a 404."""
Reason = Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")]
"""A longer one, which may be empty."""
Expected = Annotated[str, StringConstraints(pattern=r"^(sha256:[0-9a-f]{64})?$")]
DigestText = Annotated[Digest, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT)]
"""Maximum number of items of a list."""
TextCursor = Annotated[str | None, Field(max_length=200, pattern=_NO_CONTROLS)]
"""Cursor of a list that is ordered by a text; at most as long as a `Label`, which it may be."""
NumberCursor = Annotated[int | None, Field(ge=0, le=2**31 - 1)]
Moment = Annotated[float | None, Field(ge=0, le=2**35, allow_inf_nan=False)]
"""Seconds since the epoch."""
Steps = Annotated[int, Field(ge=0, le=1000, examples=[3])]


def _example(example: JsonDict) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [example]})


def _no_automatic(name: str) -> str:
    if name.startswith(AUTOMATIC_ACTORS):
        told = " or ".join(map(repr, AUTOMATIC_ACTORS))
        raise ValueError(f"must not begin with {told}: reserved for rules and jobs")
    return name


class Body(BaseModel):
    """A request's JSON body: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PageQuery(BaseModel):
    """A page of a list; ``after`` is the last item's name or id of the page before."""

    limit: Limit = 100
    after: TextCursor = None


class LongPageQuery(PageQuery):
    """A page of a list that is short as a rule."""

    limit: Limit = MAX_LIMIT


class PolicyQuery(PageQuery):
    """Filter of policies; all given fields must match."""

    prefix: TextCursor = None
    base: TextCursor = None
    has_revision: bool | None = None
    labels: Annotated[str | None, Field(max_length=5000, examples=["team=search,stage=prod"])] = None
    created_after: Moment = None
    created_before: Moment = None


class RevisionQuery(BaseModel):
    """Filter of revisions; ``after`` is the last number of the previous page."""

    limit: Limit = 100
    after: NumberCursor = None
    state: RevisionState | None = None
    created_after: Moment = None
    created_before: Moment = None


class FaultyQuery(BaseModel):
    """A page of revisions that cannot be served; ``after`` is the last place of the page before."""

    limit: Limit = 100
    after: Annotated[str | None, Field(max_length=120, pattern=r"^[A-Za-z0-9_-]{1,100}@[0-9]{1,9}$")] = None


class HistoryQuery(BaseModel):
    """Page of an alias's moves; ``before`` is the last sequence of the previous page."""

    limit: Limit = 100
    before: NumberCursor = None


class AliasPeriodQuery(BaseModel):
    """The newest periods in which aliases pointed at a revision."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 100


class RemovalQuery(BaseModel):
    """Why an alias is removed."""

    reason: Reason = ""


class LineageQuery(BaseModel):
    """Number of trainings to follow back and forth."""

    ancestors: Steps = 1000
    descendants: Steps = 1


class DiffQuery(BaseModel):
    """Revision to compare with: a number or digest; the parent by default."""

    against: Annotated[str | None, Field(max_length=100, examples=["12", "sha256:4f0e..."])] = None


class UploadQuery(BaseModel):
    """Origin of an uploaded adapter: its optimizer step, and its parent revision.

    With ``base`` a policy that does not exist is made over this base, with the adapter's rank and targets.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int = Field(0, ge=0, le=2**53)
    parent: str | None = None
    base: str | None = Field(None, max_length=100)


class LoraRequest(Body):
    """The wished LoRA shape: ``alpha`` is twice the rank by default, ``targets`` all that the base allows."""

    rank: StrictInt = 16
    alpha: StrictFloat | None = None
    targets: tuple[Label, ...] | None = None
    seed: StrictInt = 0


class RetentionRequest(Body):
    """Revisions to retain: the newest ``keep_last``, and all of the last ``keep_days`` days."""

    keep_last: StrictInt | None = None
    keep_days: StrictInt | None = None


class RetentionPatch(RetentionRequest):
    """Revisions to retain: the newest ``keep_last``, and all of the last ``keep_days`` days; null clears."""


class PolicyRequest(Body):
    """The body of ``POST /mint/v1/policies``."""

    model_config = _example(
        {"name": "copy", "base": "tiny", "lora": {"rank": 8}, "labels": {"team": "search"}}
    )

    name: PolicyName
    base: BaseChoice
    lora: LoraRequest = Field(default_factory=LoraRequest)
    description: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    retention: RetentionRequest = Field(default_factory=RetentionRequest)


class PolicyPatch(Body):
    """A merge patch (RFC 7396): absent fields stay, null clears; a label set to null is removed."""

    model_config = _example(
        {
            "description": "Copies its prompt.",
            "labels": {"stage": "prod", "trial": None},
            "retention": {"keep_last": 100, "keep_days": 30},
        }
    )

    description: str | None = None
    labels: dict[str, str | None] | None = None
    retention: RetentionPatch | None = None


class MoveBody(Body):
    """Target of an alias; ``expected`` is the digest of its current target, "" if it must not exist."""

    revision: StrictInt | str
    expected: Expected | None = None
    reason: Reason = ""


class RollbackBody(Body):
    """Why; ``expected`` is the digest that the alias must point at now."""

    model_config = _example({"reason": "worse in production"})

    expected: Expected | None = None
    reason: Reason = ""


class ProtectBody(Body):
    """Protection of an alias: only admin keys and rules can move it."""

    model_config = _example({"protected": True})

    protected: StrictBool


class FreezeBody(Body):
    """Freeze of an alias: rules cannot move it."""

    model_config = _example({"frozen": True})

    frozen: StrictBool


class RuleBody(Body):
    """A newer revision takes ``alias`` over when ``metric`` in ``suite`` is at least ``at_least``.

    With ``max_drop`` it must not be worse than the live revision's newest score by more than that. The live
    revision is rolled back when it scores below ``roll_back_below``. ``choose`` newest takes a revision that
    is newer than the live one; best takes any that scores better. A promotion waits until
    ``cooldown_seconds`` after the alias's last move.

    Of a score that is better when smaller, a loss, a rule has ``at_most``, ``max_rise`` and
    ``roll_back_above`` instead.
    """

    model_config = _example(
        {"suite": "held-out", "metric": "accuracy", "at_least": 0.7, "max_drop": 0.02, "roll_back_below": 0.5}
    )

    suite: Label
    metric: Label
    at_least: StrictFloat | None = None
    alias: PolicyName = "prod"
    max_drop: StrictFloat | None = None
    roll_back_below: StrictFloat | None = None
    at_most: StrictFloat | None = None
    max_rise: StrictFloat | None = None
    roll_back_above: StrictFloat | None = None
    choose: RuleChoice = "newest"
    cooldown_seconds: StrictFloat = 0.0


class EvaluationBody(Body):
    """``value`` of ``metric`` in ``suite`` over ``n`` items, of one revision (number or digest).

    ``stderr`` is the standard error of ``value``, if the evaluator knows it.
    """

    model_config = _example(
        {"revision": 2, "suite": "held-out", "metric": "accuracy", "value": 0.75, "n": 64, "stderr": 0.05}
    )

    revision: StrictInt | str
    suite: Label
    metric: Label
    value: Annotated[StrictFloat, Field(ge=-_MAX_VALUE, le=_MAX_VALUE)]
    n: Annotated[StrictInt, Field(ge=1, le=10**9)]
    stderr: Annotated[StrictFloat | None, Field(ge=0, le=_MAX_VALUE)] = None


class KeyBody(Body):
    """A new key: ``read``, ``infer`` (ask models), ``train`` (change policies), ``admin`` (all of it)."""

    model_config = _example({"name": "ci", "scopes": ["read", "infer"]})

    name: Annotated[Label, AfterValidator(_no_automatic)]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=5)] = FULL_SCOPES


class TenantBody(Body):
    """A new tenant."""

    model_config = _example({"name": "search-team"})

    name: Label
