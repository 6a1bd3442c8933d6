"""The command `mint` where another package is named `services` too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mint_client.core.refusals import LocalFailureError
from mint_launcher import entries_before, own_package, owners_of, without
from services.standalone.adapters.bases import _add_elsewhere

MINT = (sys.executable, "-P", "-m", "mint_launcher")


START = """
import subprocess, sys
import mint_launcher
mint_launcher.clear_the_way(mint_launcher.own_package())
show = "import os, services; print(os.path.dirname(services.__file__), os.environ['PYTHONPATH'])"
subprocess.run([sys.executable, "-P", "-c", show], check=True)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder with a package `services` of its own, which says so when it is imported."""
    folder = tmp_path / "project"
    (folder / "services").mkdir(parents=True)
    (folder / "services" / "__init__.py").write_text("raise SystemExit('the other services')\n")
    return folder


def run(*command: str, cwd: Path, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environ}, capture_output=True, text=True, check=False
    )


def test_mint_and_what_it_starts_find_their_own_package_past_pythonpath(project: Path) -> None:
    done = run(sys.executable, "-P", "-c", START, cwd=project, PYTHONPATH=f"{project}{os.pathsep}/kept")
    assert done.stdout.split() == [str(own_package()), "/kept"], done.stderr


def test_mint_runs_in_a_folder_with_a_package_of_that_name(project: Path) -> None:
    done = run(*MINT, "base", "list", "--dir", str(project / "state"), cwd=project, PYTHONPATH=str(project))
    assert (done.returncode, done.stderr) == (0, "")
    assert "no base in" in done.stdout


def test_a_base_is_imported_by_a_process_that_ignores_the_folder_it_stands_in(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(LocalFailureError):
        _add_elsewhere(project / "bases", "no-such-base")
    assert "no-such-base: is neither a folder, nor one of" in capfd.readouterr().err


def test_an_installed_package_of_that_name_is_refused_with_both_places(project: Path, tmp_path: Path) -> None:
    metadata = project / "other_dist-1.0.dist-info"
    metadata.mkdir()
    (metadata / "RECORD").write_text("other.py,,\nservices/__init__.py,,\n")
    start = f"import sys; sys.path.insert(0, {str(project)!r}); import mint_launcher; mint_launcher.main()"
    done = run(sys.executable, "-P", "-c", start, cwd=tmp_path)
    assert done.returncode == 1
    for named in (str(own_package()), str(project / "services"), "other_dist", "virtual environment"):
        assert named in done.stderr


def test_distributions_that_share_one_folder_are_found(tmp_path: Path) -> None:
    for name, record in (
        ("mint_stack-0.1.0", "services/__init__.py,,\n"),
        ("theirs-2.0", "a.py,,\nservices/api.py,,\n"),
        ("unrelated-1.0", "web_services/__init__.py,,\nb/services/__init__.py,,\n"),
    ):
        (tmp_path / f"{name}.dist-info").mkdir()
        (tmp_path / f"{name}.dist-info" / "RECORD").write_text(record)
    assert owners_of("services", tmp_path) == ["mint_stack", "theirs"]


def test_a_folder_without_an_init_file_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "services").mkdir()
    ours = own_package()
    assert entries_before(ours, [str(tmp_path), str(ours.parent)]) == []


def test_what_comes_after_our_package_is_in_nobodys_way(project: Path) -> None:
    ours = own_package()
    assert entries_before(ours, [str(ours.parent), str(project)]) == []
    assert entries_before(ours, [str(project), str(ours.parent)]) == [str(project)]


def test_an_entry_leaves_pythonpath_however_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    path = os.pathsep.join(["/kept", f"{tmp_path}/", f"{tmp_path}/link"])
    assert without(path, str(tmp_path)) == "/kept"
