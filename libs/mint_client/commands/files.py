"""`mint file`: uploaded files."""

from typing import Annotated

import typer

from mint_client.adapters.public_api import PublicApi, path_of
from mint_client.commands.api import Listing, group
from mint_client.commands.options import AfterOption, LimitOption
from mint_client.core.columns import FILE


def list_files(api: PublicApi, *, limit: LimitOption = 100, after: AfterOption = None) -> Listing:
    """List uploaded files, newest first.

    Example: mint file list
    """
    found = api.get_openai("/files", {"limit": limit, "after": after})["data"]
    return Listing(answer=found, columns=FILE, nothing="no file yet: mint train FILE sends one")


def rm_file(
    api: PublicApi,
    files: Annotated[list[str], typer.Argument(metavar="FILE_ID...", help="Ids of files (mint file list).")],
) -> None:
    """Remove files and erase their bytes. Refused while a running job reads one.

    What jobs and evaluation runs derived from its rows is erased too; revisions trained on it stay.

    Example: mint file rm file-4p2tvc6rkzcmxlyhy3nb5dw7ea
    """
    for file in files:
        api.delete_openai(path_of("files", file))
        typer.echo(f"removed {file}")


file_app = group("List or remove uploaded files.", list_files, rm_file)
