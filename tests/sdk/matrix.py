"""The SDK matrix: one driver, every SDK version in an environment of its own, one running gateway.

Writes ``out/sdk/matrix.json``; a checked-in copy of it is what `tools/make_tinker_compat.py` makes
docs/reference/tinker-compat.md of.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from clients.environments import make_environment

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).parent / "driver.py"
TOKENIZER = ROOT / "bases/tiny"
RESULT = ROOT / "out/sdk/matrix.json"
TOOLKIT = "mindlab-toolkit 0.2.0"
"""MinT's own package, over SDK 0.22.0."""
VERSIONS = (
    "0.10.0",
    "0.15.0",
    "0.18.2",
    TOOLKIT,
    "0.24.1",
    "0.25.0",
    "0.26.2",
    "0.30.4",
    "0.36.0",
    "0.38.0",
)
DRIVE_SECONDS = 900.0


def environment_of(version: str) -> Path:
    """Return the Python of a version's environment."""
    package = version.replace(" ", "==") if " " in version else f"tinker=={version}"
    return make_environment(version.replace(" ", "-"), package, "torch")


def drive(
    version: str, url: str, key: str, folder: Path, *, after: bool = False, python: Path | None = None
) -> dict[str, Any]:
    """Run the driver in a version's environment, or with ``python``, and return what it saw."""
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / f"{version.replace(' ', '-')}.json"
    # A sampler's tokenizer is looked up by the base's name alone: a folder of that name stands for it.
    named = folder / "mint/tiny"
    if not named.exists():
        named.parent.mkdir(exist_ok=True)
        named.symlink_to(TOKENIZER)
    own = {name: value for name, value in os.environ.items() if not name.startswith(("TINKER_", "MINT_"))}
    command = [python or environment_of(version), DRIVER, url, key, state, *(["--after"] if after else [])]
    with (folder / f"{state.stem}.log").open("a") as log:
        subprocess.run(
            [str(part) for part in command],
            cwd=folder,
            env={**own, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TINKER_PROJECT_ID": "matrix"},
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=DRIVE_SECONDS,
            check=False,
        )
    if not state.exists():
        tail = (folder / f"{state.stem}.log").read_text()[-2000:]
        return {"sdk": version, "methods": {}, "checks": {"the driver runs": _failed(tail)}}
    seen: dict[str, Any] = json.loads(state.read_text())
    return seen


def write(matrix: dict[str, dict[str, Any]]) -> None:
    """Keep the result, without what only the next run of the driver needs."""
    kept = {
        version: {
            "sdk": seen["sdk"],
            "methods": seen["methods"],
            "checks": {name: check["status"] for name, check in seen["checks"].items()},
        }
        for version, seen in matrix.items()
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(kept, indent=1) + "\n")


def problems(matrix: dict[str, dict[str, Any]]) -> list[str]:
    """Return what failed, and which methods nothing tried."""
    found = []
    for version, seen in matrix.items():
        found += [
            f"{version}: {name}\n{check['detail']}"
            for name, check in seen["checks"].items()
            if check["status"] == "failed"
        ]
        found += [
            f"{version}: {method} is {status}"
            for method, status in seen["methods"].items()
            if status in {"untested", "failed"}
        ]
    return found


def _failed(detail: str) -> dict[str, Any]:
    return {"status": "failed", "seconds": 0.0, "detail": detail}
