"""The manifest of an environment that `mint env add` installed: a file in the installation's folder."""

import re
from typing import Annotated, get_args

import msgspec

from mint_common.events import EnvironmentKind
from mint_common.names import NAME_PATTERN

MANIFEST = "environment.json"
VENV = ".venv"
INSTALLED_KINDS: tuple[EnvironmentKind, ...] = tuple(
    kind for kind in get_args(EnvironmentKind) if kind != "session"
)
"""Kinds that `mint env add` takes; each but http has a file in `adapters/environments/worker`."""


class InstalledEnvironment(msgspec.Struct, frozen=True, kw_only=True):
    """An installed environment.

    ``package`` is the distribution's name; ``entry``, MODULE:NAME, is what makes an environment of the
    arguments, where it is not the package's own function. ``versions`` is the sorted freeze of the
    installation and ``sha256`` its digest. ``network``: its code
    may use this machine's network. One of kind ``http`` has no installation, but a ``url``.
    """

    kind: EnvironmentKind
    name: Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
    package: str
    requirement: str
    entry: str
    python: str
    versions: tuple[str, ...]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    network: bool = False
    url: str = ""


def read_manifest(data: bytes) -> InstalledEnvironment:
    """Return the manifest of an installation. Raises ValueError."""
    try:
        return msgspec.json.decode(data, type=InstalledEnvironment)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error


def usual_name(package: str) -> str:
    """Return the name of a package's environment: its own, in lower case, as the names of policies are."""
    return re.sub(r"[^a-z0-9._-]+", "-", package.lower()).strip("-._")[:63]
