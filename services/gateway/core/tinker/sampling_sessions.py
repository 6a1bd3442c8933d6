"""Sampling sessions, from which clients sample; training opens one after an export."""

from dataclasses import dataclass
from typing import Literal

from mint_common.claims import RevisionRef
from mint_common.ids import BaseName, PolicyId, TenantId
from services.gateway.core.tinker.ids import sampling_session_id_of

SamplingKind = Literal["snapshot", "inflight"]

LIVE_SECONDS = 3600.0
"""Time after its client's last heartbeat in which a sampling session protects its revision from
collection.
"""
KEPT_SECONDS = 30 * 86_400.0
"""Retention of a sampling session after its client's last heartbeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOpening:
    """A sampling session ``{session_id}:sample:{seq}`` on one revision; None is the bare base.

    ``base_model`` is the base in the user's spelling, ``model_path`` the checkpoint that was named, if one
    was. ``model_id`` and ``policy_id`` are the training run's for an export of it. ``inflight``: the run's
    inflight sessions all move to this revision.
    """

    tenant_id: TenantId
    session_id: str
    seq: int
    base: BaseName
    base_model: str
    revision: RevisionRef | None
    model_path: str | None = None
    model_id: str | None = None
    policy_id: PolicyId | None = None
    kind: SamplingKind = "snapshot"

    @property
    def sampling_session_id(self) -> str:
        """Return its id."""
        return sampling_session_id_of(self.session_id, self.seq)
