"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from services.standalone.adapters.state_folder import StateFolder

DEFAULT_FOLDER = Path("~/.mint")

FolderOption = Annotated[
    Path,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="The state folder: bases, database, blobs, logs, keys; all that MinT writes. Default: ~/.mint",
        show_default=False,
    ),
]


def state_folder(folder: Path) -> StateFolder:
    """Return the state folder of an option's value."""
    return StateFolder(root=folder.expanduser().absolute())
