"""Write deploy/constraints.txt: the exact versions that MinT is installed with, for all extras and machines.

The CPU and the CUDA engine are two resolutions, as both are the package `vllm`. They share every version but
those of torch and of what torch itself pins, which become ranges over both.
"""

import itertools
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PATH = ROOT / "deploy/constraints.txt"
OVERRIDES = {"cpu": ("overrides.txt", "overrides-cpu.txt"), "gpu": ("overrides.txt",)}
PYTHONS, MACHINES = ("3.11", "3.12", "3.13"), ("x86_64", "aarch64")
BUILDS_DIFFER = re.compile(r"torch(vision)?|(nvidia|cuda)-.*")
OF_ONE_WHEEL = {"intel-cmplr-lib-ur": "intel-openmp"}
"""What only some wheels of a package need, in its own version: a universal resolution reads one wheel."""
HEADER = """\
# The exact versions of everything that MinT installs, on Linux with Python 3.11 to 3.13: `make constraints`.
# A range: the CPU and the CUDA engine need builds of their own, and each names its version itself.
"""

Pins = Mapping[tuple[str, str], str]
"""The version of a package by Python and machine."""


def main() -> None:
    """Resolve for both engines and write what came out."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "resolved.txt"
        # Each resolution prefers the versions of the one before it, so the last two agree where they can.
        _, cpu, gpu = (_resolve(engine, out) for engine in ("gpu", "cpu", "gpu"))
    for name, package in OF_ONE_WHEEL.items():
        cpu[name] = cpu[package]
    lines = [line for name in sorted({*cpu, *gpu}) for line in _lines(name, cpu.get(name), gpu.get(name))]
    PATH.write_text(HEADER + "".join(f"{line}\n" for line in lines))


def _lines(name: str, *engines: Pins | None) -> list[str]:
    """Return the line of a package, or one a version if these differ by Python, else raise SystemExit."""
    pythons: dict[str, set[str]] = defaultdict(set)
    for (python, _), version in itertools.chain.from_iterable(pins.items() for pins in engines if pins):
        pythons[version].add(python)
    versions = sorted(pythons, key=Version)
    if len(versions) == 1:
        return [f"{name}=={versions[0]}"]
    if BUILDS_DIFFER.fullmatch(name):
        return [f"{name}>={versions[0]},<={versions[-1]}"]
    if sum(map(len, pythons.values())) > len(set().union(*pythons.values())):
        sys.exit(f"{name}: engines or machines need different versions: {', '.join(versions)}")
    markers = {
        version: [f"python_version == '{one}'" for one in sorted(pythons[version])] for version in versions
    }
    return [f"{name}=={version} ; {' or '.join(markers[version])}" for version in versions]


def _resolve(engine: str, out: Path) -> dict[str, Pins]:
    """Return every package's versions, those of ``out`` where they fit, else the newest; renew ``out``."""
    command = [
        str(Path(sys.executable).with_name("uv")),
        *("pip", "compile", "pyproject.toml", "deploy/helm/requirements.txt"),
        *("--extra", engine, "--extra", "dev", "--group", "docs", "--group", "tools"),
        *(word for name in OVERRIDES[engine] for word in ("--override", f"deploy/{name}")),
        *("--universal", "--python-version", PYTHONS[0], "--quiet"),
        *("--no-header", "--no-annotate", "--output-file", str(out)),
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    found: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
    for requirement in map(Requirement, out.read_text().splitlines()):
        for python, machine in itertools.product(PYTHONS, MACHINES):
            place = {
                "python_version": python,
                "python_full_version": f"{python}.0",
                "platform_machine": machine,
            }
            if requirement.marker is None or requirement.marker.evaluate(place):
                (pin,) = requirement.specifier
                found[requirement.name][python, machine] = pin.version
    return dict(found)


if __name__ == "__main__":
    main()
