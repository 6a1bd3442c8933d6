"""The records of Tinker clients: their sessions, and the policy of each training run."""

from dataclasses import dataclass, field
from typing import Literal

from mint_common.events import LoraSpec
from mint_common.ids import BaseName, PolicyId, TenantId

ALIVE_SECONDS = 120.0
"""Time without a heartbeat after which a session counts as inactive; clients send one every ten seconds."""

FinishReason = Literal["success", "errored", "interrupted"]
Metadata = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSession:
    """One client process's session. Times are seconds since the epoch; ``finish`` None: not finished."""

    session_id: str
    tenant_id: TenantId
    project_id: str
    display_name: str | None = None
    tags: tuple[str, ...] = ()
    metadata: Metadata = field(default_factory=dict)
    sdk_version: str = ""
    created_at: float
    seen_at: float
    finish: FinishReason | None = None
    finish_detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunShape:
    """The shape of a training run; ``base_model`` is the base in the user's spelling."""

    base: BaseName
    base_model: str
    lora: LoraSpec
    train_attn: bool
    train_mlp: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun(RunShape):
    """A training run of a session: its policy and its user's metadata.

    A run that only holds copies of checkpoints has no training session behind its policy; ``is_trained`` is
    false then.
    """

    model_id: str
    session_id: str
    tenant_id: TenantId
    policy_id: PolicyId
    is_trained: bool
    metadata: Metadata
    created_at: float
