"""What a model name resolves to, given what the store found. A name never falls back to the base."""

from typing import Protocol

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.catalog import Resolution, RevisionState
from mint_common.claims import RevisionRef
from mint_common.errors import (
    NoRevision,
    NotFound,
    RevisionLostError,
    RevisionQuarantinedError,
    RevisionRetiredError,
)
from mint_common.events.revision import Fault
from mint_common.ids import BaseName, PolicyId
from services.registry.core.names import ModelName


class Named(Protocol):
    """A policy's id, name and base."""

    @property
    def policy_id(self) -> PolicyId:
        """Its id."""
        ...

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def base(self) -> BaseName:
        """Its base's name."""
        ...


def base_resolution(name: ModelName, facts: BaseFacts | None) -> Resolution:
    """Resolve a name that is no policy of the tenant. Raises NotFound."""
    if not name.is_bare:
        raise NotFound(kind="policy", name=name.name)
    if facts is None:
        raise NotFound(kind="model", name=name.name)
    return Resolution(base=facts.name, policy_id=None, policy_name=None, revision=None)


def policy_resolution(
    name: ModelName,
    policy: Named,
    revision: RevisionRef | None,
    *,
    state: RevisionState = "published",
    fault: Fault | None = None,
) -> Resolution:
    """Resolve a name of a policy; ``revision`` is the one that its selector matched.

    Raises NotFound naming a selector without a match, NoRevision for a bare name without one.
    """
    if revision is None:
        if name.revision is not None:
            raise NotFound(kind="revision", name=str(name.revision))
        if name.alias is not None:
            raise NotFound(kind="alias", name=name.alias)
        raise NoRevision(name=policy.name)
    check_servable(policy, revision.number, state=state, fault=fault)
    return Resolution(
        base=policy.base, policy_id=policy.policy_id, policy_name=policy.name, revision=revision
    )


def check_servable(policy: Named, number: int, *, state: RevisionState, fault: Fault | None) -> None:
    """Check that a name may resolve to a revision.

    Raises RevisionRetiredError, RevisionQuarantinedError, RevisionLostError.
    """
    if state == "retired":
        raise RevisionRetiredError(name=policy.name, number=number)
    if state == "quarantined":
        raise RevisionQuarantinedError(name=policy.name, number=number)
    if fault is not None:
        raise RevisionLostError(name=policy.name, number=number, fault=fault)
