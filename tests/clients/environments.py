"""Environments of clients whose packages do not fit into ours: made once, kept under ``out``."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("SDK_ENVIRONMENTS") or ROOT / "out/sdk/environments")


def make_environment(name: str, *packages: str, bare: tuple[str, ...] = ()) -> Path:
    """Return the Python of an environment, made if it is not there; ``bare`` packages bring no others."""
    folder = CACHE / name
    python = folder / "bin/python"
    if (folder / "made").exists():
        return python
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    assert uv is not None, "uv is needed: it comes with 'make install'"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    wheels = os.environ.get("PIP_FIND_LINKS")
    torch = ["--find-links", wheels] if wheels else ["--torch-backend=cpu"]
    install = [uv, "pip", "install", "--quiet", "--python", python, *torch]
    subprocess.run([*install, *packages], check=True)
    if bare:
        subprocess.run([*install, "--no-deps", *bare], check=True)
    (folder / "made").touch()
    return python


def make_node_environment(name: str, *packages: str) -> Path:
    """Return a folder with packages of npm, made if it is not there."""
    folder = CACHE / name
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, *packages]
        subprocess.run(command, check=True)
        (folder / "made").touch()
    return folder
