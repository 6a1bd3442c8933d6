"""docker-compose.yml describes services that the code would accept."""

import importlib
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from mint_common.settings import read_settings
from services.standalone.core.stack_file import MOST_SHARED

ROOT = Path(__file__).parents[3]
SERVICES = ("registry", "trainer", "rollout", "loader", "gateway")


@pytest.fixture(scope="module")
def compose() -> Mapping[str, Any]:
    parsed: Mapping[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return parsed


def test_compose_names_the_services_and_their_parts(compose: Mapping[str, Any]) -> None:
    on_gpus = {"trainer-gpu", "loader-gpu"}
    assert set(compose["services"]) == {*SERVICES, *on_gpus, "postgres", "nats", "s3"}


def test_a_profile_says_what_trainer_and_loader_compute_on(compose: Mapping[str, Any]) -> None:
    services = compose["services"]
    shares = []
    for name in ("trainer", "loader"):
        own, on_gpu = services[name], services[f"{name}-gpu"]
        assert (own["profiles"], own["build"]["target"]) == (["cpu"], "cpu")
        assert (on_gpu["profiles"], on_gpu["build"]["target"]) == (["gpu"], "gpu")
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
    assert sum(shares) <= MOST_SHARED
    targets = re.findall(
        r"^FROM \S+ AS (\w+)$", (ROOT / "deploy/docker/Dockerfile").read_text(), re.MULTILINE
    )
    assert targets == ["sources", "gpu", "cpu"]


def test_compose_never_publishes_beyond_loopback(compose: Mapping[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]

    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("name", [*SERVICES, "trainer-gpu", "loader-gpu"])
def test_service_accepts_its_environment(compose: Mapping[str, Any], name: str) -> None:
    service = name.removesuffix("-gpu")
    module = importlib.import_module(f"services.{service}.settings")
    raw: Mapping[str, str] = compose["services"][name]["environment"]
    environ = {name: _substitute(value) for name, value in raw.items()}

    read_settings(getattr(module, f"{service.capitalize()}Settings"), environ, service=service)


def _substitute(value: str) -> str:
    """Fill in what compose would: the default, or something for a required secret."""
    return re.sub(
        r"\$\{\w+:(-|\?)([^}]*)\}", lambda m: m[2] if m[1] == "-" else "secret-of-a-sensible-length", value
    )


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_compose_file_is_valid() -> None:
    command = ["docker-compose", "--env-file", "deploy/compose.env.example", "config", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
