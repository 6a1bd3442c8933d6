"""`mint env`: what it installs, apart from MinT, and what it refuses."""

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mint_client.cli import app
from mint_common.errors import AlreadyExists, InvalidField, NotFound
from services.standalone.core.refusals import EnvironmentNotInstalledError

pytestmark = pytest.mark.integration


def mint(*arguments: object, folder: Path) -> Any:
    """Run a command on a state folder."""
    return CliRunner().invoke(app, ["env", *map(str, arguments), "--dir", str(folder)])


def listed(folder: Path) -> list[dict[str, Any]]:
    """Return the environments of a state folder."""
    found: list[dict[str, Any]] = json.loads(mint("list", "--json", folder=folder).output)
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel with one module, which no index has."""
    path = tmp_path_factory.mktemp("wheels") / "count_up-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("count_up.py", "def load_environment():\n    return 1\n")
        info = "count_up-1.0.dist-info"
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: count-up\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        names = ["count_up.py", f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD"]
        file.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in names))
    return path


def test_an_installation_is_its_own_and_its_manifest_names_every_version(wheel: Path, tmp_path: Path) -> None:
    own = Path(sys.executable).parents[1] / "lib"
    before = sorted(path.name for path in own.glob("python*/site-packages/*"))
    assert mint("add", "verifiers", wheel, folder=tmp_path).exit_code == 0
    (made,) = listed(tmp_path)
    assert (made["name"], made["kind"], made["package"]) == ("count-up", "verifiers", "count-up")
    assert made["versions"] == [f"count-up @ file://{wheel}"]
    assert made["sha256"] == hashlib.sha256("\n".join(made["versions"]).encode()).hexdigest()
    python = tmp_path / "envs/count-up/.venv/bin/python"
    code = "import count_up, sys; print(count_up.load_environment(), sys.prefix)"
    printed = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["1", str(python.parents[1])]
    assert sorted(path.name for path in own.glob("python*/site-packages/*")) == before
    assert isinstance(mint("add", "verifiers", wheel, folder=tmp_path).exception, AlreadyExists)
    assert mint("rm", "count-up", folder=tmp_path).exit_code == 0
    assert listed(tmp_path) == []
    assert list((tmp_path / "envs").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "refusal", "problem"),
    [
        (("verifiers", "no-such-package-here==1.0"), EnvironmentNotInstalledError, "no-such-package-here"),
        (("verifiers", "verifiers"), InvalidField, "no PACKAGE==VERSION"),
        (("gymnasium", "verifiers==0.3.1"), InvalidField, "none of verifiers"),
        (("verifiers", "a==1", "--name", "../b"), InvalidField, "does not match"),
        (("http", "https://judge.example/score"), InvalidField, "does not match"),
        (("http", "file:///etc/passwd", "--name", "judge"), InvalidField, "no http or https URL"),
        (("verifiers", "a==1", "--entry", "os.system"), InvalidField, "MODULE:NAME"),
        (("verifiers", "a==1", "--with", "--editable=."), InvalidField, "--with"),
    ],
)
def test_what_cannot_be_installed_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], refusal: type, problem: str
) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    found = mint("add", *arguments, folder=tmp_path).exception
    assert isinstance(found, refusal)
    assert problem in str(found)
    assert list((tmp_path / "envs").glob("*")) == list((tmp_path / "envs").glob(".*")) == []


def test_only_what_is_installed_is_removed(tmp_path: Path) -> None:
    for name in ("nothing", "..", "../bases"):
        assert isinstance(mint("rm", name, folder=tmp_path).exception, NotFound)


def test_a_reward_url_is_noted_and_nothing_is_installed(tmp_path: Path) -> None:
    url = "https://judge.example/score"
    assert mint("add", "http", url, "--name", "judge", folder=tmp_path).exit_code == 0
    (made,) = listed(tmp_path)
    assert (made["kind"], made["name"], made["url"], made["versions"]) == ("http", "judge", url, [])
    assert [path.name for path in (tmp_path / "envs/judge").iterdir()] == ["environment.json"]
