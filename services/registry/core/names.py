"""Model names and their resolution from the store's rows. A name never falls back to the base.

``base``, ``policy``, ``policy@alias``, ``policy@<number>``, ``policy@sha256:<hex>``; ``policy@latest`` and
``policy@best``, unless an alias has that name.
"""

from dataclasses import dataclass

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.catalog import Resolution, RevisionState
from mint_common.errors import (
    NoRevision,
    NotFound,
    RevisionLostError,
    RevisionQuarantinedError,
    RevisionRetiredError,
)
from mint_common.events.revision import Fault
from mint_common.ids import Digest
from mint_common.names import BEST, LATEST, is_name, number_or_digest

DEFAULT_ALIAS = "prod"
"""The alias that a bare policy name resolves to, when it exists."""
KEYWORDS = (LATEST, BEST)
"""Selectors that mean a revision where no alias has their name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelName:
    """A parsed model name. At most one of ``alias`` and ``revision`` (number or digest) is given."""

    name: str
    alias: str | None = None
    revision: int | Digest | None = None

    @property
    def is_bare(self) -> bool:
        """Return whether it has neither alias nor revision."""
        return self.alias is None and self.revision is None


def parse_model(model: str) -> ModelName:
    """Split a model name. Raises NotFound when it does not match the grammar."""
    name, at, selector = model.partition("@")
    if not is_name(name):
        raise NotFound(kind="model", name=model[:200])
    if not at:
        return ModelName(name=name)
    key = number_or_digest(selector)
    if key is not None:
        return ModelName(name=name, revision=key)
    if not is_name(selector) or selector.isdecimal():
        raise NotFound(kind="model", name=model[:200])
    return ModelName(name=name, alias=selector)


def base_resolution(name: ModelName, facts: BaseFacts | None) -> Resolution:
    """Resolve a name that is not a policy of the tenant. Raises NotFound."""
    if not name.is_bare:
        raise NotFound(kind="policy", name=name.name)
    if facts is None:
        raise NotFound(kind="model", name=name.name)
    return Resolution(base=facts.name, policy_id=None, policy_name=None, revision=None)


def check_match(
    asked: ModelName, policy_name: str, number: int | None, *, state: RevisionState, fault: Fault | None
) -> None:
    """Check that a name of a policy resolves to the revision that its selector matched.

    Raises NotFound naming a selector without a match, NoRevision for a bare name without one, and as
    `check_servable`.
    """
    if number is None:
        if asked.revision is not None:
            raise NotFound(kind="revision", name=f"{asked.name}@{asked.revision}")
        if asked.alias is not None:
            kind = "revision" if asked.alias in KEYWORDS else "alias"
            raise NotFound(kind=kind, name=f"{asked.name}@{asked.alias}")
        raise NoRevision(name=policy_name)
    check_servable(policy_name, number, state=state, fault=fault)


def check_servable(policy_name: str, number: int, *, state: RevisionState, fault: Fault | None) -> None:
    """Check that a name may resolve to a revision.

    Raises RevisionRetiredError, RevisionQuarantinedError, RevisionLostError.
    """
    if state == "retired":
        raise RevisionRetiredError(name=policy_name, number=number)
    if state == "quarantined":
        raise RevisionQuarantinedError(name=policy_name, number=number)
    if fault is not None:
        raise RevisionLostError(name=policy_name, number=number, fault=fault)
