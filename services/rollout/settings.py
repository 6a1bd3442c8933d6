"""Settings of the rollout service, read once from the environment."""

from pathlib import Path

from pydantic import Field

from mint_common.ids import TenantId
from mint_common.settings import AlgorithmSettings, BasePeers, Block, GraderSettings, ServiceSettings


class WaveSettings(Block):
    """Settings for working on waves."""

    stall_seconds: float = Field(
        20.0, gt=0, description="silence of a job until its last events are repeated"
    )
    file_copies_bytes: int = Field(
        8 << 30, ge=1 << 20, description="local copies of files that jobs read; the longest unused go first"
    )


class TaskSettings(Block):
    """The processes that run the code of tasks."""

    task_workers: int = Field(
        2,
        ge=1,
        description="processes that draw and score for a tenant; callers over HTTP have half of them at most;"
        " all tenants together have a quarter more, one at least",
    )
    task_seconds: float = Field(
        60.0,
        gt=0,
        le=240,
        description="longest time for one draw, or for the scores of a group; then of each answer",
    )
    task_memory_bytes: int = Field(
        2 << 30, ge=64 << 20, description="maximum memory that the code of tasks may take in one process"
    )


class EnvironmentSettings(Block):
    """The processes that run environments which `mint env add` installed."""

    environments_dir: Path | None = Field(
        None, description="folder of installed environments; `mint up` sets it to that of the stack"
    )
    environment_workers: int = Field(2, ge=1, description="maximum processes of one environment")
    environment_episodes: int = Field(
        64, ge=1, le=1024, description="episodes that one process of an environment runs at a time"
    )
    environment_memory_bytes: int = Field(
        4 << 30, ge=256 << 20, description="maximum memory of one such process with those that it starts"
    )
    environments_confined: bool = Field(
        default=True,
        description="refuse to run an environment where the kernel allows no namespaces; off: its code then"
        " reads what the service's user may read, and reaches its network",
    )


class QuotaSettings(Block):
    """Quotas of a tenant's jobs; a submission beyond them is refused with 422."""

    trainer_seconds_per_day: float = Field(
        0.0,
        ge=0,
        description="seconds of trainers that the steps of a tenant's jobs may take in 24 hours; 0: no limit",
    )


class ErasureSettings(Block):
    """Retention of jobs' training data after their end."""

    keep_waves_days: float = Field(
        30.0,
        ge=0,
        description="prompts and rollout records of an ended job; those of a deleted file go at once",
    )


class RolloutSettings(ServiceSettings):
    """All settings of the rollout service."""

    peers: BasePeers
    algorithms: AlgorithmSettings
    waves: WaveSettings
    tasks: TaskSettings
    environments: EnvironmentSettings
    quotas: QuotaSettings
    erasure: ErasureSettings
    graders: GraderSettings
    file_bytes: int = Field(
        512 << 20, ge=1 << 20, description="largest file that a tenant may upload, whole or in parts"
    )
    files_bytes_per_tenant: int = Field(
        20 << 30, ge=0, description="maximum bytes of a tenant's files and open uploads together"
    )
    wandb_tenants: str = Field(
        "",
        description="tenants whose jobs the operator records by `mint track --to wandb`, separated by commas:"
        " their jobs on files may have `integrations`",
    )

    @property
    def recorded_tenants(self) -> frozenset[TenantId]:
        """Return the tenants of ``wandb_tenants``."""
        return frozenset(TenantId(name.strip()) for name in self.wandb_tenants.split(",") if name.strip())
