"""A service does not start with an algorithm that it cannot import, and says so in a sentence."""

import os
import subprocess
import sys

import pytest

SETTINGS = {
    "MINT_NATS_URL": "nats://127.0.0.1:9",
    "MINT_POSTGRES_DSN": "postgresql://mint@127.0.0.1:9/mint",
    "MINT_BLOBS_URL": "file:///nowhere",
    "MINT_PEERS_REGISTRY_URL": "http://127.0.0.1:9",
    "MINT_INTERNAL_TOKEN": "internal",
    "MINT_ALGORITHMS_CUSTOM": "nowhere.at_all:ALGORITHM",
}


@pytest.mark.parametrize("service", ["rollout", "gateway"])
def test_a_wrong_path_ends_a_service_at_its_start(service: str) -> None:
    environ = {**os.environ, **SETTINGS, f"MINT_{service.upper()}_HTTP_PORT": "0"}
    command = [sys.executable, "-m", f"services.{service}"]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "Setting MINT_ALGORITHMS_CUSTOM: cannot import 'nowhere.at_all:ALGORITHM'" in (
        ended.stdout + ended.stderr
    )
