"""What a model name resolves to, given what the store found. A name never falls back to the base."""

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
from services.registry.core.names import ModelName


def base_resolution(name: ModelName, facts: BaseFacts | None) -> Resolution:
    """Resolve a name that is no policy of the tenant. Raises NotFound."""
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
            raise NotFound(kind="revision", name=str(asked.revision))
        if asked.alias is not None:
            raise NotFound(kind="alias", name=asked.alias)
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
