"""docker-compose.yml describes services that the code would accept."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

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


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_compose_file_is_valid() -> None:
    command = ["docker-compose", "--env-file", "deploy/compose.env.example", "config", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
