"""The schema at /openapi.json is what the gateway does: requests made of it, and a client made of it."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients.environments import ROOT, make_environment
from e2e.stack import RunningStack, start_stack

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(3600)]

CLIENTS = ROOT / "tests/clients"
SCHEMATHESIS, GENERATOR = "schemathesis==4.32.5", "openapi-python-client==0.29.1"


def run(*command: object, folder: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=3500,
        check=False,
    )


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack of its own: requests made of the schema leave policies, keys and jobs."""
    running = start_stack(tmp_path_factory.mktemp("openapi"))
    yield running
    running.stop()


@pytest.mark.client("schemathesis 4.32.5", "every operation but the event stream: no finding")
def test_every_answer_is_one_of_the_schema(stack: RunningStack, tmp_path: Path) -> None:
    python = make_environment("schemathesis-4.32.5", SCHEMATHESIS)
    command = (python.parent / "schemathesis", "--config-file", CLIENTS / "schemathesis.toml")
    url = f"{stack.http.base_url}/openapi.json"
    hooks = {"PYTHONPATH": str(CLIENTS), "SCHEMATHESIS_HOOKS": "schemathesis_hooks"}
    done = run(*command, "run", url, folder=tmp_path, MINT_KEY=stack.api_key, **hooks)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]


@pytest.mark.client("openapi-python-client 0.29.1", "a client made of /openapi.json: one chat")
def test_a_client_made_of_the_schema_chats(stack: RunningStack, tmp_path: Path) -> None:
    python = make_environment("openapi-python-client-0.29.1", GENERATOR)
    (tmp_path / "openapi.json").write_text(json.dumps(stack.http.get("/openapi.json").json()))
    generate = (
        python.parent / "openapi-python-client",
        "generate",
        "--path",
        "openapi.json",
        "--meta",
        "none",
    )
    made = run(*generate, "--output-path", "mint_api", folder=tmp_path)
    assert made.returncode == 0, made.stdout + made.stderr
    command = (python, CLIENTS / "generated_chat.py", stack.http.base_url, stack.api_key)
    said = run(*command, folder=tmp_path, PYTHONPATH=str(tmp_path))
    assert said.returncode == 0, said.stdout + said.stderr
    assert json.loads(said.stdout)["model"] == "tiny"
