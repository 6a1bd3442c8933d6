"""Options of the commands that start or plan a stack on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from mint_client.commands.options import DEFAULT_FOLDER
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.core.plan import DType

DTypeOption = Annotated[
    DType,
    typer.Option(
        help=(
            "Dtype of the bases' weights in trainers and engines. LoRA weights and optimizers stay "
            "float32. auto: what MINT_TRAINER_DTYPE and MINT_LOADER_DTYPE say, else float32 on a CPU, "
            "bfloat16 on a GPU."
        )
    ),
]


def state_folder(folder: Path | None) -> StateFolder:
    """Return the state folder of an option's value."""
    return StateFolder(root=(folder or DEFAULT_FOLDER).expanduser().absolute())
