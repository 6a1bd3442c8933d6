"""Print which installed packages have another version than deploy/constraints.txt says, as a table."""

import importlib.metadata
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

CONSTRAINTS = Path(__file__).parents[1] / "deploy/constraints.txt"
UNCONSTRAINED = {"mint-stack", "pip"}
"""The project itself, and what comes with Python."""


def main() -> None:
    """Print a line a package, or that none differs."""
    differing = differences(constraints(CONSTRAINTS.read_text()), installed())
    width = max(map(len, differing), default=0)
    print(f"{len(differing)} packages differ from deploy/constraints.txt on Python {sys.version.split()[0]}")
    for name, (expected, found) in differing.items():
        print(f"  {name:{width}}  {expected} -> {found}")


def constraints(text: str) -> dict[str, SpecifierSet]:
    """Return what a file of constraints says for this Python and machine, by package."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    ours = (one for one in map(Requirement, lines) if one.marker is None or one.marker.evaluate())
    return {canonicalize_name(one.name): one.specifier for one in ours}


def installed() -> dict[str, str]:
    """Return the version of every package of this environment that a resolution chooses."""
    # Not sys.path: setuptools adds a folder of its own copies to it.
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    dists = importlib.metadata.distributions(path=folders)
    found = {canonicalize_name(one.name): one.version for one in dists}
    return {name: version for name, version in sorted(found.items()) if name not in UNCONSTRAINED}


def differences(expected: Mapping[str, SpecifierSet], found: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the constraint (or "") and the version of each package that differs."""
    return {
        name: (str(expected.get(name, "")), version)
        for name, version in found.items()
        if name not in expected or not expected[name].contains(version, prereleases=True)
    }


if __name__ == "__main__":
    main()
