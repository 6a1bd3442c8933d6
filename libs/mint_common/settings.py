"""Settings: every service reads the environment once, into a frozen object.

Shared blocks have one name for all services (``MINT_NATS_URL``); a service's own fields stand under its name
(``MINT_TRAINER_BASE_DIR``). An unknown name under a known prefix is an error, because a setting that takes no
effect is worse than none. A variable that is set to the empty text counts as not set.
"""

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, TypeVar, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from mint_common.errors import SettingInvalid

S = TypeVar("S", bound=BaseModel)


class Block(BaseModel):
    """A group of settings. A field with ``repr=False`` is a secret: no error or log shows its value."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NatsSettings(Block):
    """Where the bus is."""

    url: str = Field(min_length=1, repr=False, description="address of NATS with JetStream")


class PostgresSettings(Block):
    """Where the database is."""

    dsn: str = Field(
        min_length=1, repr=False, description="Postgres connection string; each service owns a schema"
    )


class BlobSettings(Block):
    """Where blobs are: a local folder, or a bucket of an S3 compatible store."""

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
    """Where a service listens."""

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(ge=0, le=65535, description="port to listen on; 0 takes a free one")


class TelemetrySettings(Block):
    """What a service tells about itself."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="least level that is logged"
    )
    otlp_endpoint: str = Field(
        "", pattern=r"^(https?://.+)?$", description="OTLP/HTTP collector; empty: none"
    )


class PeerSettings(Block):
    """Where the other services are."""

    registry_url: str = Field(pattern=r"^https?://.+", description="address of the registry")
    rollout_url: str = Field("", pattern=r"^(https?://.+)?$", description="address of the rollout service")
    trainer_urls: tuple[str, ...] = Field((), description="addresses of the trainers")
    loader_urls: tuple[str, ...] = Field((), description="addresses of the loaders")


class InternalSettings(Block):
    """What services prove to each other."""

    token: str = Field(
        min_length=1, repr=False, description="secret that all services share for internal HTTP"
    )


SHARED: Mapping[str, type[Block]] = {
    "nats": NatsSettings,
    "postgres": PostgresSettings,
    "blobs": BlobSettings,
    "telemetry": TelemetrySettings,
    "peers": PeerSettings,
    "internal": InternalSettings,
}
"""Field name -> block of the settings that mean the same in every service."""


class SettingDoc(NamedTuple):
    """One setting, as a reader of ``--help`` or of the docs wants it; ``default`` None: it is required."""

    variable: str
    type: str
    default: str | None
    help: str


class _Variable(NamedTuple):
    name: str
    block: str | None
    field: str
    info: FieldInfo


def read_settings(cls: type[S], environ: Mapping[str, str], *, service: str) -> S:
    """Return the settings of a service from the environment. Raises SettingInvalid.

    Blocks of ``cls`` that are named in `SHARED` are read under ``MINT_<BLOCK>_``, a block named ``http``
    under ``MINT_<SERVICE>_HTTP_``, and every other block or plain field under ``MINT_<SERVICE>_``.
    """
    variables = _variables(cls, service)
    _refuse_unknown(environ, variables, service)
    blocks: dict[str, object] = {}
    for name, info in cls.model_fields.items():
        block = _block_type(info)
        if block is not None:
            own = [v for v in variables if v.block == name]
            blocks[name] = _validate(block, own, environ, {})
    plain = [v for v in variables if v.block is None]
    return _validate(cls, plain, environ, blocks)


def describe_settings(cls: type[BaseModel], service: str) -> list[SettingDoc]:
    """Return every setting that a service reads, in reading order."""
    return [
        SettingDoc(
            variable=v.name,
            type=_type_name(v.info),
            default=None if v.info.is_required() else _default_text(v.info),
            help=v.info.description or "",
        )
        for v in _variables(cls, service)
    ]


def _variables(cls: type[BaseModel], service: str) -> list[_Variable]:
    variables = list(_walk(cls, f"MINT_{service.upper()}_"))
    names = [v.name for v in variables]
    assert len(set(names)) == len(names), f"two settings of {cls.__name__} share a name: {sorted(names)}"
    return variables


def _walk(cls: type[BaseModel], own_prefix: str) -> Iterator[_Variable]:
    for name, info in cls.model_fields.items():
        block = _block_type(info)
        if block is None:
            yield _Variable(own_prefix + name.upper(), None, name, info)
            continue
        prefix = f"MINT_{name.upper()}_" if name in SHARED else own_prefix
        if name == "http":
            prefix += "HTTP_"
        for field, field_info in block.model_fields.items():
            yield _Variable(prefix + field.upper(), name, field, field_info)


def _block_type(info: FieldInfo) -> type[BaseModel] | None:
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _refuse_unknown(environ: Mapping[str, str], variables: list[_Variable], service: str) -> None:
    known = {v.name for v in variables}
    prefixes = [f"MINT_{service.upper()}_"]
    for name, block in SHARED.items():
        prefixes.append(f"MINT_{name.upper()}_")
        known.update(f"MINT_{name.upper()}_{field.upper()}" for field in block.model_fields)
    for name in sorted(environ):
        if name not in known and name.startswith(tuple(prefixes)):
            near = _nearest(name, sorted(known))
            raise SettingInvalid(name=name, problem=f"is not known; the nearest name is {near}")


def _nearest(name: str, known: list[str]) -> str:
    longer = [candidate for candidate in known if candidate.startswith(name)]
    return longer[0] if longer else difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


def _validate(
    cls: type[S],
    variables: list[_Variable],
    environ: Mapping[str, str],
    blocks: Mapping[str, object],
) -> S:
    values = dict(blocks)
    for v in variables:
        text = environ.get(v.name, "")
        if text:
            values[v.field] = _split(text) if get_origin(v.info.annotation) is tuple else text
        elif v.info.is_required():
            raise SettingInvalid(name=v.name, problem=_missing(v, environ))
    try:
        settings = cls.model_validate(values)
    except ValidationError as error:
        raise _refusal(error, variables, environ) from None  # the cause would show secret values
    for v in variables:
        value = getattr(settings, v.field)
        if isinstance(value, float) and not math.isfinite(value):
            raise SettingInvalid(name=v.name, problem=f"must be finite; found {environ[v.name]!r}")
    return settings


def _refusal(
    error: ValidationError, variables: list[_Variable], environ: Mapping[str, str]
) -> SettingInvalid:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    problem = first["msg"].removeprefix("Value error, ")
    place = first["loc"][0] if first["loc"] else None
    for v in variables:
        if v.field == place:
            text = environ[v.name]
            found = repr(text) if v.info.repr else f"a secret of {len(text)} characters"
            return SettingInvalid(name=v.name, problem=f"{problem}; found {found}")
    names = ", ".join(v.name for v in variables if environ.get(v.name))
    return SettingInvalid(name=names, problem=problem)


def _missing(variable: _Variable, environ: Mapping[str, str]) -> str:
    text = f"is required ({variable.info.description})" if variable.info.description else "is required"
    candidates = sorted(name for name in environ if name.startswith("MINT_") and name != variable.name)
    near = difflib.get_close_matches(variable.name, candidates, n=1, cutoff=0.85)
    return f"{text}; found {near[0]}: is that a misspelling?" if near else f"{text}; it is not set"


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _type_name(info: FieldInfo) -> str:
    kind = info.annotation
    if isinstance(kind, type) and get_origin(kind) is None:
        return kind.__name__
    return str(kind).replace("typing.", "")


def _default_text(info: FieldInfo) -> str:
    default = info.get_default(call_default_factory=True)
    return ",".join(str(item) for item in default) if isinstance(default, tuple) else str(default)
