"""Settings are read once, completely, or refused with the name that is wrong."""

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mint_common.errors import SettingInvalid
from mint_common.settings import (
    SHARED,
    BlobSettings,
    Block,
    HttpSettings,
    InternalSettings,
    NatsSettings,
    PeerSettings,
    PostgresSettings,
    TelemetrySettings,
    describe_settings,
    read_settings,
)


class QueueSettings(Block):
    """A block of the service's own."""

    depth: int = Field(32, ge=1, description="requests that may wait")
    mode: Literal["fair", "fifo"] = "fair"
    folder: Path
    names: tuple[str, ...] = ()


class BakerSettings(BaseModel):
    """What a service of these tests reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nats: NatsSettings
    postgres: PostgresSettings
    blobs: BlobSettings
    telemetry: TelemetrySettings
    peers: PeerSettings
    internal: InternalSettings
    http: HttpSettings
    http_host: str = "127.0.0.1"
    http_port: int = Field(ge=0, le=65535)
    queue: QueueSettings
    oven_celsius: float = 180.0


LEAST = {
    "MINT_NATS_URL": "nats://user:pw@127.0.0.1:4222",
    "MINT_POSTGRES_DSN": "postgresql://mint:pw@127.0.0.1/mint",
    "MINT_BLOBS_URL": "file:///tmp/blobs",
    "MINT_PEERS_REGISTRY_URL": "http://127.0.0.1:7001",
    "MINT_INTERNAL_TOKEN": "an internal secret",
    "MINT_BAKER_HTTP_PORT": "7000",
    "MINT_BAKER_FOLDER": "/srv/baker",
}


def read(**changes: str | None) -> BakerSettings:
    environ = {name: value for name, value in {**LEAST, **changes}.items() if value is not None}
    return read_settings(BakerSettings, environ, service="baker")


def test_each_block_has_its_prefix() -> None:
    settings = read(
        MINT_PEERS_LOADER_URLS="http://a:1, http://b:2,",
        MINT_BAKER_HTTP_HOST="0.0.0.0",
        MINT_HTTP_DRAIN_SECONDS="3",
        MINT_BAKER_DEPTH="3",
        MINT_BAKER_OVEN_CELSIUS="220.5",
        MINT_TELEMETRY_LOG_LEVEL="DEBUG",
    )
    assert settings.nats.url == LEAST["MINT_NATS_URL"]
    assert settings.peers.loader_urls == ("http://a:1", "http://b:2")
    assert settings.http == HttpSettings(drain_seconds=3)
    assert (settings.http_host, settings.http_port) == ("0.0.0.0", 7000)
    assert settings.queue == QueueSettings(depth=3, folder=Path("/srv/baker"))
    assert settings.oven_celsius == 220.5
    assert settings.telemetry.log_level == "DEBUG"


def test_an_empty_variable_counts_as_not_set() -> None:
    assert read(MINT_BAKER_DEPTH="", MINT_BLOBS_S3_ENDPOINT="", MINT_PEERS_LOADER_URLS="") == read()
    with pytest.raises(SettingInvalid, match="MINT_NATS_URL: is required"):
        read(MINT_NATS_URL="")


@pytest.mark.parametrize("name", sorted(LEAST))
def test_a_missing_variable_is_named(name: str) -> None:
    with pytest.raises(SettingInvalid, match=f"{name}: is required.*not set"):
        read(**{name: None})


def test_a_misspelt_required_variable_is_pointed_out() -> None:
    with pytest.raises(SettingInvalid, match=r"MINT_NATS_URL: is required.*found MINT_NAST_URL"):
        read(MINT_NATS_URL=None, MINT_NAST_URL="nats://x")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("MINT_BAKER_HTTP_PROT", "MINT_BAKER_HTTP_PORT"),
        ("MINT_BAKER_OVEN", "MINT_BAKER_OVEN_CELSIUS"),
        ("MINT_POSTGRES_DNS", "MINT_POSTGRES_DSN"),
        ("MINT_BLOBS_S3_KEY", "MINT_BLOBS_S3_.*KEY"),
        ("MINT_PEERS_LOADERS_URL", "MINT_PEERS_LOADER_URLS"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_name(name: str, near: str) -> None:
    with pytest.raises(SettingInvalid, match=f"{name}: is not known.*{near}$"):
        read(**{name: "1"})


def test_no_name_is_offered_for_one_that_is_like_none() -> None:
    with pytest.raises(
        SettingInvalid, match=r"MINT_BAKER_WALLPAPER: is not known: docs/reference/settings.md lists all"
    ):
        read(MINT_BAKER_WALLPAPER="1")


def test_variables_of_other_services_and_programs_are_ignored() -> None:
    assert read(MINT_LOADER_SLOTS="x", PATH="/bin", MINTY="1", mint_baker_x="1") == read()


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("MINT_BAKER_DEPTH", "many", "valid integer.*'many'"),
        ("MINT_BAKER_DEPTH", "0", "greater than or equal to 1.*'0'"),
        ("MINT_BAKER_MODE", "random", "'fair' or 'fifo'.*'random'"),
        ("MINT_BAKER_OVEN_CELSIUS", "nan", "finite.*'nan'"),
        ("MINT_BAKER_HTTP_PORT", "70000", "65535.*'70000'"),
        ("MINT_POSTGRES_DSN", "host=db", "postgresql://user:password@host.*a secret of 7 characters"),
        ("MINT_BLOBS_URL", "/var/blobs", "file:///absolute/path or s3://bucket/prefix.*'/var/blobs'"),
        ("MINT_BLOBS_URL", "file://relative/path", "file:///absolute"),
        ("MINT_BLOBS_URL", "s3:///prefix", "s3://bucket"),
        ("MINT_TELEMETRY_LOG_LEVEL", "debug", "'DEBUG'"),
        ("MINT_TELEMETRY_OTLP_ENDPOINT", "collector:4318", "pattern.*'collector:4318'"),
        ("MINT_PEERS_REGISTRY_URL", "127.0.0.1:7001", "pattern"),
    ],
)
def test_a_wrong_value_is_named_and_shown(name: str, value: str, problem: str) -> None:
    with pytest.raises(SettingInvalid, match=f"(?s)Setting {name}: .*{problem}"):
        read(**{name: value})


def test_settings_that_contradict_each_other_are_all_named() -> None:
    with pytest.raises(SettingInvalid, match=r"MINT_BLOBS_URL, MINT_BLOBS_S3_ENDPOINT: .*no effect"):
        read(MINT_BLOBS_S3_ENDPOINT="http://s3")
    with pytest.raises(SettingInvalid, match="go together") as caught:
        read(MINT_BLOBS_URL="s3://b/p", MINT_BLOBS_S3_SECRET_KEY="hush hush")
    assert "hush" not in str(caught.value)


def test_no_error_and_no_repr_shows_a_secret() -> None:
    class Picky(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
        pin: int = Field(repr=False)

    with pytest.raises(SettingInvalid) as caught:
        read_settings(Picky, {"MINT_BAKER_PIN": "hunter2"}, service="baker")
    assert "hunter2" not in str(caught.value)
    assert "7 characters" in str(caught.value)
    assert caught.value.__cause__ is None
    shown = repr(read())
    for secret in ("an internal secret", "user:pw", "mint:pw"):
        assert secret not in shown


@pytest.mark.parametrize("password", ["pa\N{ACCOUNT OF}ss-secret", "se[cret]pw"])
def test_a_password_that_no_url_may_hold_is_not_shown(password: str) -> None:
    with pytest.raises(SettingInvalid, match="percent-encoded; found a secret of") as caught:
        read(MINT_POSTGRES_DSN=f"postgresql://mint:{password}@host/db")
    said = str(caught.value)
    assert not any(part in said for part in (password, "ss-secret", "se[", "cret]", "]pw"))
    assert caught.value.__cause__ is None


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        read().http.port = 1  # type: ignore[misc]  # that it fails is the point


@given(
    st.integers(1, 10**9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.from_regex(r"[a-z0-9:/.]+", fullmatch=True), max_size=4),
    st.integers(0, 65535),
)
def test_what_is_written_into_the_environment_is_read_back(
    depth: int, celsius: float, names: list[str], port: int
) -> None:
    settings = read(
        MINT_BAKER_DEPTH=str(depth),
        MINT_BAKER_OVEN_CELSIUS=repr(celsius),
        MINT_BAKER_NAMES=",".join(names),
        MINT_BAKER_HTTP_PORT=str(port),
    )
    assert settings.queue.depth == depth
    assert settings.oven_celsius == celsius
    assert settings.queue.names == tuple(names)
    assert settings.http_port == port


KNOWN = {doc.variable for doc in describe_settings(BakerSettings, "baker")}
prefixes = st.sampled_from(["MINT_BAKER_", *(f"MINT_{name.upper()}_" for name in SHARED)])


@given(prefixes, st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789", max_size=12), st.text(max_size=5))
def test_no_unknown_name_under_a_known_prefix_passes(prefix: str, rest: str, value: str) -> None:
    name = prefix + rest
    if name in KNOWN:
        return
    with pytest.raises(SettingInvalid) as caught:
        read(**{name: value})
    assert name in str(caught.value)


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("  an internal secret\n")
    environ = {name: value for name, value in LEAST.items() if name != "MINT_INTERNAL_TOKEN"}
    environ["MINT_INTERNAL_TOKEN_FILE"] = str(tmp_path / "token")
    settings = read_settings(BakerSettings, environ, service="baker")
    assert settings.internal.token == "an internal secret"


@pytest.mark.parametrize(
    ("content", "more", "problem"),
    [
        (None, {}, "No such file"),
        (b" \n", {}, "is empty"),
        (b"\xff\xfe", {}, "is not text"),
        (b"secret", {"MINT_INTERNAL_TOKEN": "another"}, "set one of them"),
    ],
)
def test_a_secret_of_a_file_is_refused_by_name(
    tmp_path: Path, content: bytes | None, more: dict[str, str], problem: str
) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    environ = {name: value for name, value in LEAST.items() if name != "MINT_INTERNAL_TOKEN"} | more
    environ["MINT_INTERNAL_TOKEN_FILE"] = str(tmp_path / "token")
    with pytest.raises(SettingInvalid, match=problem) as refused:
        read_settings(BakerSettings, environ, service="baker")
    assert refused.value.name == "MINT_INTERNAL_TOKEN_FILE"
    assert "secret" not in str(refused.value).replace("test_a_secret", "")


def test_only_secrets_come_from_files() -> None:
    with pytest.raises(SettingInvalid, match=r"MINT_BAKER_FOLDER_FILE.*is not known"):
        read(MINT_BAKER_FOLDER_FILE="/somewhere")


def test_every_setting_is_described() -> None:
    docs = {doc.variable: doc for doc in describe_settings(BakerSettings, "baker")}
    assert next(iter(docs)) == "MINT_NATS_URL"
    assert docs["MINT_NATS_URL"].default is None
    assert docs["MINT_BAKER_DEPTH"] == ("MINT_BAKER_DEPTH", "int", "32", "requests that may wait", False)
    assert docs["MINT_BAKER_NAMES"][1:3] == ("tuple[str, ...]", "")
    assert docs["MINT_BAKER_MODE"].type == "Literal['fair', 'fifo']"
    assert set(LEAST) <= set(docs)


def test_two_settings_of_one_name_are_a_bug() -> None:
    class Twice(BaseModel):
        queue: QueueSettings
        depth: int = 1

    with pytest.raises(AssertionError, match="share a name"):
        describe_settings(Twice, "baker")
