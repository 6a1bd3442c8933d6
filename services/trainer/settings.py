"""Settings of the trainer, read once from the environment."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from mint_common.settings import (
    BlobSettings,
    HttpSettings,
    InternalSettings,
    NatsSettings,
    PeerSettings,
    PostgresSettings,
    TelemetrySettings,
)


class TrainerSettings(BaseModel):
    """A trainer has one base; ``MINT_TRAINER_BASE_DIR`` names its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nats: NatsSettings
    postgres: PostgresSettings
    blobs: BlobSettings
    telemetry: TelemetrySettings
    peers: PeerSettings
    internal: InternalSettings
    http: HttpSettings
    base_dir: Path = Field(description="folder of the base: Hugging Face files and mint_base.json")
    threads: int = Field(1, ge=1, description="torch threads of a step; more than the idle cores is slower")
    resident_policies: int = Field(
        8, ge=1, description="policies ready to step (16 bytes per LoRA parameter each)"
    )
    host_policies: int = Field(
        32, ge=0, description="more policies kept in host memory (12 bytes per LoRA parameter each)"
    )
    batch_policies: int = Field(
        8,
        ge=1,
        description="policies stepped together when ready at once, at most resident_policies;"
        " 1 makes every step bitwise reproducible",
    )
    batch_tokens: int = Field(
        8192, ge=1, description="tokens stepped together; a policy with more of them is stepped alone"
    )
    microbatch_tokens: int = Field(
        512, ge=1, description="padded tokens of one forward and backward; bounds the memory of a step"
    )
