"""docker-compose.yml describes services that the code would accept."""

import itertools
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from typer.testing import CliRunner

from mint_client.cli import app
from mint_common.errors import AlreadyExists
from mint_common.settings import read_settings
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.core.compose_files import make_compose_files
from services.standalone.core.stack_file import MAX_SHARED
from services.standalone.settings import READ_BY

ROOT = Path(__file__).parents[3]
OPERATIONS = ROOT / "docs/operate/operations.md"
SERVICES = ("registry", "trainer", "rollout", "loader", "gateway")


@pytest.fixture(scope="module")
def compose() -> Mapping[str, Any]:
    parsed: Mapping[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return parsed


def test_compose_names_the_services_and_their_parts(compose: Mapping[str, Any]) -> None:
    on_gpus = {"trainer-gpu", "loader-gpu"}
    watching = {"prometheus", "grafana", "collector"}
    assert set(compose["services"]) == {*SERVICES, *on_gpus, "postgres", "nats", "s3", *watching}
    assert all(compose["services"][name]["profiles"] == ["observability"] for name in watching)


def test_postgres_is_healthy_once_it_has_the_role_that_is_made_last(compose: Mapping[str, Any]) -> None:
    script = (ROOT / "deploy/postgres/roles.sh").read_text()
    (made,) = re.findall(r"^for schema in (.*); do$", script, re.MULTILINE)
    kind, command = compose["services"]["postgres"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    assert f"SELECT 'mint_{made.split()[-1]}'::regrole" in command


def test_what_needs_no_torch_runs_from_the_slim_image(compose: Mapping[str, Any]) -> None:
    targets = {name: compose["services"][name]["build"]["target"] for name in SERVICES}
    assert targets == {
        "registry": "slim",
        "gateway": "slim",
        "rollout": "tasks",
        "trainer": "cpu",
        "loader": "cpu",
    }
    stages = re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "deploy/docker/Dockerfile").read_text(), re.MULTILINE)
    assert {*targets.values(), "gpu"} <= set(stages)


def test_a_profile_says_what_trainer_and_loader_compute_on(compose: Mapping[str, Any]) -> None:
    services = compose["services"]
    shares = []
    for name in ("trainer", "loader"):
        own, on_gpu = services[name], services[f"{name}-gpu"]
        assert (own["profiles"], on_gpu["profiles"]) == (["cpu"], ["gpu"])
        assert on_gpu["build"]["target"] == "gpu"
        assert on_gpu["image"] != own["image"]
        assert on_gpu["networks"]["default"]["aliases"] == [name]
        (device,) = on_gpu["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        assert "shm_size" in on_gpu
        shares += [
            float(_substitute(value))
            for variable, value in on_gpu["environment"].items()
            if variable.endswith(("MEMORY_SHARE", "GPU_MEMORY_UTILIZATION"))
        ]
    assert len(shares) == 2
    assert sum(shares) <= MAX_SHARED


def test_parts_on_gpus_load_what_is_compiled_there_and_engines_keep_it(compose: Mapping[str, Any]) -> None:
    for name in ("trainer-gpu", "loader-gpu"):
        assert compose["services"][name]["tmpfs"] == ["/tmp:exec"], "HOME: Docker mounts a tmpfs noexec"
    loader = compose["services"]["loader-gpu"]
    caches = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "VLLM_CACHE_ROOT")
    assert "loader-cache:/var/lib/mint" in loader["volumes"]
    assert all(loader["environment"][variable].startswith("/var/lib/mint/") for variable in caches)
    assert compose["services"]["trainer-gpu"]["depends_on"]["loader-gpu"] == {"condition": "service_healthy"}


def test_the_image_for_gpus_compiles_and_links(compose: Mapping[str, Any]) -> None:
    dockerfile = (ROOT / "deploy/docker/Dockerfile").read_text()
    stage = dockerfile.partition(" AS gpu\n")[2].partition("\nFROM ")[0]
    assert "gcc libc6-dev" in stage, "Triton compiles its launchers"
    assert "VLLM_USE_FLASHINFER_SAMPLER" not in stage, "no nvcc: FlashInfer's sampler stays off"


def test_replicas_of_the_engine_number_and_announce_themselves(compose: Mapping[str, Any]) -> None:
    loader = compose["services"]["loader"]
    assert loader["deploy"] == {"replicas": 2}
    assert loader["environment"]["MINT_LOADER_ENGINE_ID"].endswith("*")
    assert {"container_name", "hostname", "ports"}.isdisjoint(loader)
    known = compose["services"]["gateway"]["environment"]
    assert _substitute(known["MINT_PEERS_LOADER_URLS"]) == "", "they announce themselves"
    assert "MINT_PEERS_TRAINER_URLS" not in known


def test_secrets_are_files_and_each_service_has_its_own(compose: Mapping[str, Any]) -> None:
    for name in (*SERVICES, "trainer-gpu", "loader-gpu"):
        service = compose["services"][name]
        files = {
            value.rpartition("/")[2] for value in service["environment"].values() if "/run/secrets/" in value
        }
        assert files == set(service["secrets"])
        assert ("api_key" in files) == (name == "registry")
        own = f"postgres_dsn_{name.partition('-')[0]}"
        assert [each for each in files if each.startswith("postgres")] == [own]
        given = re.findall(r"\$\{(\w+)", str(service["environment"]))
        assert not [
            each for each in given if each.endswith(("TOKEN", "PASSWORD", "SECRET_KEY", "DSN", "API_KEY"))
        ]


def test_rollout_has_environments_that_mint_env_installs_there(compose: Mapping[str, Any]) -> None:
    rollout = compose["services"]["rollout"]
    (volume,) = rollout["volumes"]
    name, folder = volume.split(":")
    assert name in compose["volumes"]
    environments = StateFolder(root=Path(folder)).environments
    assert rollout["environment"]["MINT_ROLLOUT_ENVIRONMENTS_DIR"] == str(environments)
    dockerfile = (ROOT / "deploy/docker/Dockerfile").read_text()
    assert f"-m 0700 {folder}" in dockerfile, "a new volume has the folder's owner"
    stage = dockerfile.partition("FROM runtime AS tasks\n")[2].partition("\nFROM ")[0]
    assert "/bin/uv /opt/mint/.venv/bin/uv" in stage
    assert f"UV_CACHE_DIR={folder}/" in stage, "links from the cache are of one file system"
    commands = re.findall(r"rollout mint env .*", OPERATIONS.read_text())
    assert commands
    assert all(command.endswith(f" --dir {folder}") for command in commands)


def test_mint_compose_init_sets_all_that_compose_asks_for(compose: Mapping[str, Any]) -> None:
    numbers = itertools.count()
    made = make_compose_files(
        lambda: f"secret{next(numbers)}", base="tiny", computes_on="cpu", observability=True, port=8321
    )
    values = dict(line.split("=", 1) for line in made.env.splitlines() if not line.startswith("#"))
    required = re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text())
    assert set(required) <= set(values)
    assert {secret["file"].removeprefix("./secrets/") for secret in compose["secrets"].values()} == set(
        made.secrets
    )
    assert values["COMPOSE_PROFILES"] == "cpu,observability"
    addresses = [made.secrets[f"postgres_dsn_{service}"] for service in SERVICES]
    logins = [urlsplit(address) for address in addresses]
    assert [login.username for login in logins] == [f"mint_{service}" for service in SERVICES]
    assert len({made.secrets["postgres_password"], *(login.password for login in logins)}) == 6
    assert values["MINT_NATS_TOKEN"] in made.secrets["nats_url"]


def test_an_older_stack_gets_the_files_that_init_makes(tmp_path: Path) -> None:
    made = make_compose_files(
        lambda: "SECRET", base="tiny", computes_on="cpu", observability=False, port=8321
    ).secrets
    (tmp_path / "secrets").mkdir()
    (loop,) = re.findall(r"^for service in .*?^done$", OPERATIONS.read_text(), re.MULTILINE | re.DOTALL)
    subprocess.run(["sh", "-c", f"umask 077\n{loop}"], cwd=tmp_path, check=True)
    files = list((tmp_path / "secrets").iterdir())
    assert {file.name: re.sub(":[0-9a-f]{32}@", ":SECRET@", file.read_text().strip()) for file in files} == {
        name: text for name, text in made.items() if name.startswith("postgres_dsn_")
    }
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o644}


def test_mint_compose_init_closes_the_folder_of_secrets(tmp_path: Path) -> None:
    asked = ["compose", "init", "--to", str(tmp_path)]
    assert CliRunner().invoke(app, asked).exit_code == 0
    modes = [
        stat.S_IMODE((tmp_path / name).stat().st_mode) for name in (".env", "secrets", "secrets/api_key")
    ]
    assert modes == [0o600, 0o700, 0o644]
    kept = (tmp_path / ".env").read_text()
    again = CliRunner().invoke(app, asked)
    assert isinstance(again.exception, AlreadyExists)
    assert (tmp_path / ".env").read_text() == kept


def test_compose_never_publishes_beyond_loopback(compose: Mapping[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]

    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("name", [*SERVICES, "trainer-gpu", "loader-gpu"])
def test_service_accepts_its_environment(compose: Mapping[str, Any], name: str, tmp_path: Path) -> None:
    service = name.partition("-")[0]
    (tmp_path / "secret").write_text("postgresql://mint:secret-of-a-sensible-length@postgres:5432/mint")
    raw: Mapping[str, str] = compose["services"][name]["environment"]
    environ = {
        name: str(tmp_path / "secret") if name.endswith("_FILE") else _substitute(value)
        for name, value in raw.items()
    }

    read_settings(READ_BY[service], environ, service=service)


def _substitute(value: str) -> str:
    """Fill in what compose would: the default, or something for a required secret."""
    return re.sub(
        r"\$\{\w+:(-|\?)([^}]*)\}", lambda m: m[2] if m[1] == "-" else "secret-of-a-sensible-length", value
    )


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_compose_file_is_valid(tmp_path: Path) -> None:
    made = make_compose_files(lambda: "secret", base="tiny", computes_on="cpu", observability=True, port=8321)
    (tmp_path / "env").write_text(made.env)
    command = ["docker-compose", "--env-file", str(tmp_path / "env"), "config", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
