"""Settings of the registry, read once from the environment."""

from pydantic import BaseModel, ConfigDict, Field

from mint_common.settings import (
    BlobSettings,
    HttpSettings,
    InternalSettings,
    NatsSettings,
    PostgresSettings,
    TelemetrySettings,
)


class RegistrySettings(BaseModel):
    """The registry needs Postgres, the bus, and the blobs that it checks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nats: NatsSettings
    postgres: PostgresSettings
    blobs: BlobSettings
    telemetry: TelemetrySettings
    internal: InternalSettings
    http: HttpSettings
    bootstrap_key: str = Field(
        "",
        pattern=r"^(\S{20,200})?$",
        repr=False,
        description="API key of the tenant 'default', made at the start; empty: none is made",
    )
    checks: int = Field(
        1, ge=1, le=64, description="adapters checked at a time; above 1, numbers may not follow export order"
    )
