"""The wheel alone, in a virtual environment of its own, does the main job."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONSTRAINTS = f"--constraint={ROOT}/deploy/constraints.txt"
UV = str(Path(sys.prefix) / "bin/uv")

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


def _run(*command: str, cwd: Path) -> str:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.timeout(900)
def test_the_wheel_runs_the_demo(tmp_path: Path) -> None:
    _run(UV, "build", "--wheel", "--out-dir", str(tmp_path / "dist"), cwd=ROOT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    python = str(tmp_path / "venv/bin/python")
    _run(UV, "venv", "--python", sys.executable, str(tmp_path / "venv"), cwd=tmp_path)
    wheels = os.environ.get("PIP_FIND_LINKS")
    source = ["--find-links", wheels] if wheels else ["--torch-backend=cpu"]
    overrides = [f"--override={ROOT}/deploy/{name}" for name in ("overrides.txt", "overrides-cpu.txt")]
    _run(
        UV,
        "pip",
        "install",
        "--python",
        python,
        *source,
        *overrides,
        CONSTRAINTS,
        f"mint-stack[cpu] @ {wheel.as_uri()}",
        cwd=tmp_path,
    )
    mint, out = str(tmp_path / "venv/bin/mint"), tmp_path / "demo"
    _run(mint, "demo", "--base", "tiny", "--out", str(out), cwd=tmp_path)
    assert (out / "report.md").exists()


def test_without_extras_the_commands_of_a_client_start(tmp_path: Path) -> None:
    _run(UV, "venv", "--python", sys.executable, str(tmp_path / "venv"), cwd=tmp_path)
    python = str(tmp_path / "venv/bin/python")
    overrides = f"--override={ROOT}/deploy/overrides.txt"
    _run(UV, "pip", "install", "--python", python, overrides, CONSTRAINTS, str(ROOT), cwd=tmp_path)
    installed = _run(UV, "pip", "list", "--python", python, cwd=tmp_path)
    assert not [name for name in ("torch ", "vllm", "transformers ") if name in installed]
    assert "Usage" in _run(str(tmp_path / "venv/bin/mint"), "--help", cwd=tmp_path)
    for service in ("gateway", "registry", "rollout"):
        _run(python, "-c", f"import services.{service}.app", cwd=tmp_path)
