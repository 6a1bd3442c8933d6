"""What the repository promises of its own shape."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SERVICES = ("registry", "trainer", "rollout", "loader", "gateway")
SKELETON = {
    *("__init__", "__main__", "app", "settings", "metrics"),
    *("core", "ports", "handlers", "adapters", "http"),
}


def _tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def test_no_python_file_is_over_400_lines() -> None:
    too_long = [path for path in _tracked("*.py") if len(path.read_text().splitlines()) > 400]

    assert too_long == []


@pytest.mark.parametrize("service", SERVICES)
def test_service_has_exactly_the_skeleton(service: str) -> None:
    folder = ROOT / "services" / service
    names = {path.relative_to(folder).parts[0] for path in _tracked(f"services/{service}")}
    modules = {name.removesuffix(".py") for name in names}

    assert modules | {"ports"} == SKELETON, "a service without ports calls its stores directly"
    assert {"core", "handlers", "adapters"} <= names, "these are packages"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_no_lock_file_is_tracked() -> None:
    assert _tracked("uv.lock") == []
