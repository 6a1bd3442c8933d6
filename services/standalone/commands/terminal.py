"""Where commands print their tables."""

from rich.console import Console

_WIDTH = 200


def wide_console() -> Console:
    """Return the terminal, or where there is none something wide enough to leave no column out."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)
