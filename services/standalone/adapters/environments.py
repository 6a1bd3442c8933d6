"""Environments of a state folder: each package with all that it needs in a venv of its own, made by uv."""

import contextlib
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import msgspec

from mint_common.errors import AlreadyExists, InvalidField, NotFound
from mint_common.events import EnvironmentKind
from mint_common.names import NAME_PATTERN, is_name
from mint_common.new_folder import new_folder
from services.rollout.core.installed_environment import (
    INSTALLED_KINDS,
    MANIFEST,
    VENV,
    InstalledEnvironment,
    read_manifest,
    usual_name,
)
from services.standalone.core.refusals import EnvironmentNotInstalledError, UvMissingError

_PACKAGE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_ENTRY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_READABLE, _PASSABLE = 0o444, 0o555
_MAX_PROBLEM = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentWish:
    """An environment to install: ``others`` are further requirements, ``python`` a version or a path."""

    kind: str
    requirement: str
    name: str
    python: str
    entry: str
    others: Sequence[str]
    network: bool


def add_environment(folder: Path, wish: EnvironmentWish) -> InstalledEnvironment:
    """Install an environment below a folder; one that fails leaves nothing.

    Raises InvalidField, AlreadyExists, UvMissingError, and EnvironmentNotInstalledError with uv's reason.
    """
    if wish.kind == "http":
        return _add_url(folder, wish)
    package, requirement = _package(wish.requirement)
    name = wish.name or usual_name(package)
    _check(wish, name)
    if (folder / name).exists():
        raise AlreadyExists(kind="environment", name=name)
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if uv is None:
        raise UvMissingError
    with new_folder(folder / name, mode=0o700) as draft:
        venv, python = draft / VENV, draft / VENV / "bin/python"
        # Relocatable: the folder takes its name when all is there.
        _uv(
            uv,
            ["venv", "--quiet", "--relocatable", "--python", wish.python or sys.executable, str(venv)],
            name=name,
        )
        wanted = [requirement, *wish.others]
        install = ["pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *_sources()]
        _uv(uv, [*install, "--", *wanted], name=name)
        frozen = _uv(uv, ["pip", "freeze", "--python", str(python)], name=name).splitlines()
        manifest = InstalledEnvironment(
            kind=cast(EnvironmentKind, wish.kind),
            name=name,
            package=package,
            requirement=requirement,
            entry=wish.entry,
            python=_python_version(venv),
            versions=tuple(sorted(frozen)),
            sha256=hashlib.sha256("\n".join(sorted(frozen)).encode()).hexdigest(),
            network=wish.network,
        )
        _make_readable(venv)
        (draft / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


def _add_url(folder: Path, wish: EnvironmentWish) -> InstalledEnvironment:
    """Note the URL of an environment that installs nothing."""
    _check(wish, wish.name)
    url = urlsplit(wish.requirement)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise InvalidField(field="PACKAGE", problem=f"{wish.requirement[:100]!r} is no http or https URL")
    if (folder / wish.name).exists():
        raise AlreadyExists(kind="environment", name=wish.name)
    manifest = InstalledEnvironment(
        kind="http",
        name=wish.name,
        package="",
        requirement=wish.requirement,
        entry="",
        python="",
        versions=(),
        sha256=hashlib.sha256(wish.requirement.encode()).hexdigest(),
        url=wish.requirement,
    )
    with new_folder(folder / wish.name, mode=0o700) as draft:
        (draft / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


def list_environments(folder: Path) -> list[InstalledEnvironment]:
    """Return every complete environment below a folder, by name; one with a broken manifest is left out."""
    found = []
    for file in sorted(folder.glob(f"[!.]*/{MANIFEST}")):
        with contextlib.suppress(ValueError):
            found.append(read_manifest(file.read_bytes()))
    return found


def remove_environment(folder: Path, name: str) -> None:
    """Remove an environment. Raises NotFound."""
    place = folder / name
    if not is_name(name) or not place.is_dir():
        raise NotFound(kind="environment", name=name[:100])
    gone = folder / f".{name}.gone"
    shutil.rmtree(gone, ignore_errors=True)
    place.rename(gone)
    shutil.rmtree(gone)


def _check(wish: EnvironmentWish, name: str) -> None:
    if wish.kind not in INSTALLED_KINDS:
        problem = f"{wish.kind[:100]!r} is none of {', '.join(INSTALLED_KINDS)}"
        raise InvalidField(field="KIND", problem=problem)
    if not is_name(name):
        raise InvalidField(field="--name", problem=f"{name[:100]!r} does not match {NAME_PATTERN}")
    if wish.entry and not _ENTRY.fullmatch(wish.entry):
        raise InvalidField(field="--entry", problem=f"{wish.entry[:100]!r} is not MODULE:NAME")
    for other in wish.others:
        if other.startswith("-"):
            raise InvalidField(field="--with", problem=f"{other[:100]!r} is not a package")


def _package(requirement: str) -> tuple[str, str]:
    """Return the name of a requirement's package, and the requirement as uv takes it. Raises InvalidField."""
    place = Path(requirement).expanduser()
    if place.suffix == ".whl" and place.is_file():
        return place.name.partition("-")[0].replace("_", "-"), str(place.resolve())
    if (file := place / "pyproject.toml").is_file():
        name = tomllib.loads(file.read_text()).get("project", {}).get("name", "")
        if not _PACKAGE.fullmatch(name):
            raise InvalidField(field="PACKAGE", problem=f"{file} has no name of a project")
        return name, str(place.resolve())
    found = _PACKAGE.match(requirement)
    if found is None or not any(pin in requirement for pin in ("==", " @ ")):
        problem = f"{requirement[:100]!r} is no PACKAGE==VERSION, wheel, or folder with pyproject.toml"
        raise InvalidField(field="PACKAGE", problem=problem)
    return found.group(), requirement


def _sources() -> list[str]:
    """Return what pip is configured to install from, which uv does not read by itself."""
    flags: list[str] = []
    for variable, own, flag in (
        ("PIP_FIND_LINKS", "UV_FIND_LINKS", "--find-links"),
        ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "--default-index"),
    ):
        if (value := os.environ.get(variable)) and not os.environ.get(own):
            flags += [flag, value]
    return flags


def _uv(uv: str, arguments: Sequence[str], *, name: str) -> str:
    """Run uv and return its output. Raises EnvironmentNotInstalledError."""
    try:
        done = subprocess.run(
            [uv, *arguments],
            capture_output=True,
            text=True,
            env=_inherited(),
            umask=0o022,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip()[-_MAX_PROBLEM:] or f"uv ended with status {error.returncode}"
        raise EnvironmentNotInstalledError(name=name, problem=said) from error
    return done.stdout


def _inherited() -> Mapping[str, str]:
    """Return this process's environment without MinT's settings: a build runs code of its package."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MINT_")}


def _python_version(venv: Path) -> str:
    found = re.search(r"^version(?:_info)? *= *(\S+)", (venv / "pyvenv.cfg").read_text(), re.MULTILINE)
    return found.group(1) if found else ""


def _make_readable(venv: Path) -> None:
    """Let every user read the files: workers have users of their own, and pass no folder above."""
    for path in (venv, *venv.rglob("*")):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            wanted = mode | (_PASSABLE if path.is_dir() or mode & stat.S_IXUSR else _READABLE)
            if wanted != mode:
                path.chmod(wanted)
