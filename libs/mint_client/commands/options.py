"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from mint_client.adapters.stack_folder import StackFolder

DEFAULT_FOLDER = Path("~/.mint")


FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--dir", metavar="DIR", help="State folder: bases, database, blobs, logs and keys. Default: ~/.mint"
    ),
]
StackOption = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="State folder of the stack to use. Default: the stack at MINT_URL with the key MINT_API_KEY; "
        "if MINT_URL is not set, the stack of ~/.mint",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PolicyArgument = Annotated[str, typer.Argument(metavar="POLICY", help="A policy's name or id.")]
AliasArgument = Annotated[str, typer.Argument(metavar="ALIAS", help="An alias of the policy.")]
ReasonOption = Annotated[str, typer.Option(metavar="TEXT", help="Reason, recorded in the history.")]
ResetOptimizerOption = Annotated[
    bool, typer.Option("--reset-optimizer", help="Start without the optimizer moments of earlier jobs.")
]
GradientOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PART=VALUE",
        help="Part of a policy gradient, such as loss=dppo or overlong.buffer=64; may be given several times"
        " (docs/guides/algorithms.md).",
    ),
]
LimitOption = Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="Maximum number of rows.")]
AfterOption = Annotated[str | None, typer.Option(metavar="LAST", help="Last item of the previous page.")]


def stack_folder(folder: Path | None) -> StackFolder:
    """Return the state folder of an option's value."""
    return StackFolder(root=(folder or DEFAULT_FOLDER).expanduser().absolute())


def names_in(text: str) -> list[str]:
    """Return the names of a list like ``A,B``."""
    return [name.strip() for name in text.split(",") if name.strip()]
