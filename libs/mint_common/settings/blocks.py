"""The blocks of settings that mean the same in every service."""

from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DSN_FORM = (
    "must be postgresql://user:password@host:port/database (several: host:port,host:port),"
    " the password percent-encoded"
)
"""Error about a connection string. It never shows the string, which holds the password."""


class Block(BaseModel):
    """A group of settings. A field with ``repr=False`` is a secret: no error or log shows its value."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NatsSettings(Block):
    """Address of the bus."""

    url: str = Field(
        min_length=1, repr=False, description="address of NATS with JetStream; several of a cluster: A,B,C"
    )
    replicas: int = Field(
        1, ge=1, le=5, description="on how many servers of the cluster each event is kept, at least"
    )


class PostgresSettings(Block):
    """Address of the database."""

    dsn: str = Field(
        min_length=1,
        repr=False,
        description=(
            "Postgres connection string; each service owns a schema. Several hosts: the one that takes writes"
        ),
    )

    @field_validator("dsn")
    @classmethod
    def _check_dsn(cls, dsn: str) -> str:
        try:
            scheme = urlsplit(dsn).scheme
        except ValueError:
            scheme = ""  # the text of the error may quote the password
        if scheme not in {"postgresql", "postgres"}:
            raise ValueError(DSN_FORM)
        return dsn


class BlobSettings(Block):
    """Address of the blob store: a local folder, or a bucket of an S3 compatible store."""

    url: str = Field(description="file:///absolute/path or s3://bucket/prefix")
    s3_endpoint: str = Field("", description="address of an S3 compatible server; empty: AWS")
    s3_access_key: str = Field("", description="access key; empty: the usual AWS credential chain")
    s3_secret_key: str = Field("", repr=False, description="secret key of the access key")
    s3_region: str = Field("us-east-1", description="region of the bucket")

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parts = urlsplit(url)
        local = parts.scheme == "file" and not parts.netloc and len(parts.path) > 1
        remote = parts.scheme == "s3" and bool(parts.netloc)
        if not (local or remote):
            raise ValueError("must be file:///absolute/path or s3://bucket/prefix")
        return url

    @model_validator(mode="after")
    def _check_s3(self) -> "BlobSettings":
        if self.url.startswith("file:") and (self.s3_endpoint or self.s3_access_key or self.s3_secret_key):
            raise ValueError("S3 settings take no effect on a file:// store")
        if bool(self.s3_access_key) != bool(self.s3_secret_key):
            raise ValueError("an access key and a secret key go together")
        return self


class HttpSettings(Block):
    """Shutdown times of a service."""

    accept_seconds: float = Field(
        0.0,
        ge=0,
        description=(
            "time after SIGTERM in which new connections are still answered, while `/readyz` says 503 "
            "and load balancers notice"
        ),
    )
    drain_seconds: float = Field(
        10.0,
        ge=0,
        description="time that open requests have after that; then they end with the error `stopping`",
    )


class TelemetrySettings(Block):
    """Telemetry of a service."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="least level that is logged"
    )
    otlp_endpoint: str = Field(
        "", pattern=r"^(https?://.+)?$", description="OTLP/HTTP collector; empty: none"
    )


class RegistryPeer(Block):
    """Address of the registry, for a service that calls no other."""

    registry_url: str = Field(pattern=r"^https?://.+", description="address of the registry")


class BasePeers(RegistryPeer):
    """Addresses of the registry, the trainers and the loaders."""

    trainer_urls: tuple[str, ...] = Field(
        (), description="addresses of trainers; those that announce themselves need not be listed"
    )
    loader_urls: tuple[str, ...] = Field(
        (), description="addresses of loaders; those that announce themselves need not be listed"
    )


class PeerSettings(BasePeers):
    """Addresses of the other services. A service may share the variables of peers that it does not call."""

    rollout_url: str = Field("", pattern=r"^(https?://.+)?$", description="address of the rollout service")


class AlgorithmSettings(Block):
    """Algorithms of managed jobs."""

    custom: tuple[str, ...] = Field(
        (),
        description="import paths of the stack's own training algorithms, package.module:NAME;"
        " docs/guides/algorithms.md says how to write one",
    )


class InternalSettings(Block):
    """The secret shared by all services."""

    token: str = Field(
        min_length=1, repr=False, description="secret that all services share for internal HTTP"
    )


class GraderSettings(Block):
    """Settings for grading answers."""

    graders: Literal["monty", "process", "off"] = Field(
        "monty",
        description=(
            "sandbox of python graders: monty is an interpreter of a part of Python, process a "
            "confined Python with numpy (Linux with Landlock and seccomp); off refuses them"
        ),
    )
    grader_seconds: float = Field(2.0, gt=0, le=60, description="longest time of a source for one answer")


class ServiceSettings(Block):
    """Settings of every service; a service adds its own."""

    nats: NatsSettings
    postgres: PostgresSettings
    blobs: BlobSettings
    telemetry: TelemetrySettings
    internal: InternalSettings
    http: HttpSettings
    http_host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    http_port: int = Field(ge=0, le=65535, description="port to listen on; 0 takes a free one")


class MemberSettings(ServiceSettings):
    """Settings of a service that announces itself to the registry."""

    advertise_url: str = Field(
        "",
        pattern=r"^(https?://[^\s/]+)?$",
        description="address at which other services reach this one; empty: its own, towards the registry",
    )


SHARED: Mapping[str, type[Block]] = {
    "nats": NatsSettings,
    "postgres": PostgresSettings,
    "blobs": BlobSettings,
    "telemetry": TelemetrySettings,
    "peers": PeerSettings,
    "algorithms": AlgorithmSettings,
    "internal": InternalSettings,
    "http": HttpSettings,
}
"""Field name -> block of the settings that mean the same in every service."""
