"""The environments that `mint env add` installed: folders below one, each with a manifest."""

from pathlib import Path

from mint_common.errors import InvalidField, NotFound
from mint_common.events import EnvironmentKind
from mint_common.names import is_name
from mint_common.near import near_names
from services.rollout.core.installed_environment import (
    MANIFEST,
    VENV,
    InstalledEnvironment,
    read_manifest,
)


def find_environment(folder: Path | None, kind: EnvironmentKind, name: str) -> InstalledEnvironment:
    """Return an installed environment. Raises NotFound with near names, InvalidField for another kind."""
    manifest = None
    if folder is not None and is_name(name):
        manifest = _read(folder / name / MANIFEST)
    if manifest is None or folder is None or not _is_complete(folder / name, manifest):
        names = [] if folder is None else sorted(file.parent.name for file in folder.glob(f"*/{MANIFEST}"))
        near = near_names(name[:100], names, limit=5) or names[:5]
        raise NotFound(kind="environment", name=name[:100], near=", ".join(near))
    if manifest.kind != kind:
        problem = f"environment {name!r} is of kind {manifest.kind!r}, not {kind!r}"
        raise InvalidField(field="environment.kind", problem=problem)
    return manifest


def _is_complete(place: Path, manifest: InstalledEnvironment) -> bool:
    return bool(manifest.url) or (place / VENV / "bin/python").exists()


def _read(file: Path) -> InstalledEnvironment | None:
    try:
        return read_manifest(file.read_bytes())
    except (OSError, ValueError):
        return None
