"""The client's own distribution, in a virtual environment of its own, drives a real gateway."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from mint_client.table import COMMANDS
from mint_common.adapters_format import CONFIG_FILE, WEIGHTS_FILE
from tests.testing.adapters import make_adapter

ROOT = Path(__file__).parents[3]
CONSTRAINTS = f"--constraint={ROOT}/deploy/constraints.txt"
UV = str(Path(sys.prefix) / "bin/uv")
ABSENT = ("services", "mint_launcher", "torch", "vllm", "transformers", "asyncpg", "nats", "fastapi", "numpy")
LOOK = f"""
import importlib.util, json, pkgutil, sys
import mint_client, mint_common
for package in (mint_client, mint_common):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
print(json.dumps([name for name in {ABSENT} if importlib.util.find_spec(name)]))
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty virtual environment with the wheel that `make dist` builds."""
    folder = tmp_path_factory.mktemp("thin")
    build = (UV, "build", "--quiet", "--wheel", "--out-dir", str(folder), f"--build-{CONSTRAINTS[2:]}")
    subprocess.run((*build, str(ROOT / "libs/mint_client")), check=True)
    (wheel,) = folder.glob("*.whl")
    python = folder / "venv/bin/python"
    subprocess.run((UV, "venv", "--quiet", "--python", sys.executable, str(folder / "venv")), check=True)
    install = (UV, "pip", "install", "--quiet", "--python", str(python), CONSTRAINTS, str(wheel))
    subprocess.run(install, check=True)
    return folder / "venv"


@pytest.fixture
def mint(venv: Path, stack, tmp_path: Path) -> Run:
    """Run its `mint` as a user of the gateway does, in an empty folder."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "MINT_URL": stack.url,
        "MINT_API_KEY": stack.key,
    }

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = (str(venv / "bin/mint"), *arguments)
        return subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=120
        )

    return run


def said(done: "subprocess.CompletedProcess[str]") -> str:
    """Return what a command that succeeded printed."""
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_has_all_that_it_imports_and_nothing_of_a_stack(venv: Path, tmp_path: Path) -> None:
    command = (str(venv / "bin/python"), "-P", "-c", LOOK)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (json.loads(said(done)), done.stderr) == ([], "")


def test_its_commands_drive_a_stack(mint: Run, stack, tmp_path: Path) -> None:
    made = json.loads(said(mint("policy", "create", "thin", "--base", "tiny", "--rank", "2", "--json")))
    assert made["name"] == "thin"
    folder = tmp_path / "adapter"
    folder.mkdir()
    files = make_adapter(stack.facts, seed=7, rank=2).files
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        (folder / name).write_bytes(files[name])
    assert json.loads(said(mint("revision", "upload", "thin", str(folder), "--json")))["number"] == 1
    said(mint("alias", "move", "thin", "prod", "1"))
    assert json.loads(said(mint("alias", "list", "thin", "--json")))[0]["revision"]["number"] == 1
    said(mint("revision", "download", "thin", "prod", "--out", "copy"))
    assert {each.name for each in (tmp_path / "copy").iterdir()} >= {WEIGHTS_FILE, CONFIG_FILE}
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 2)
    assert "completion, 2 rows, 1 repeated" in said(mint("data", "check", "rows.jsonl"))
    assert "thin" in said(mint("policy", "list"))
    assert "gateway" in said(mint("status"))


def test_what_runs_a_stack_says_in_a_sentence_what_to_install(mint: Run) -> None:
    shown = said(mint("--help"))
    for name in ("up", "demo", "base", "plan", "backup", "migrate"):
        done = mint(name, "--help")
        assert done.returncode == 1
        assert done.stderr.startswith(f"mint: `mint {name}` is for a machine that runs a stack")
        assert "mint-stack[cpu]" in done.stderr
        assert f"\n  {name} " not in shown
    assert all(f"\n  {name} " in shown for name, (place, _) in COMMANDS.items() if "mint_client" in place)


def test_its_requirements_are_those_of_the_whole() -> None:
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    client = tomllib.loads((ROOT / "libs/mint_client/pyproject.toml").read_text())["project"]
    assert {*client["dependencies"]} < {*whole["dependencies"]}
    assert client["optional-dependencies"]["tensorboard"] == whole["optional-dependencies"]["tensorboard"]
