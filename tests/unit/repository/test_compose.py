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

ROOT = Path(__file__).parents[3]
SERVICES = ("registry", "trainer", "rollout", "loader", "gateway")


@pytest.fixture(scope="module")
def compose() -> Mapping[str, Any]:
    parsed: Mapping[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return parsed


def test_compose_names_the_services_and_their_parts(compose: Mapping[str, Any]) -> None:
    assert set(compose["services"]) == {*SERVICES, "postgres", "nats", "s3"}


def test_compose_never_publishes_beyond_loopback(compose: Mapping[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]

    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("service", SERVICES)
def test_service_accepts_its_environment(compose: Mapping[str, Any], service: str) -> None:
    module = importlib.import_module(f"services.{service}.settings")
    raw: Mapping[str, str] = compose["services"][service]["environment"]
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
