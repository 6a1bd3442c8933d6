"""Golden files: texts as they were reviewed. `MINT_GOLDEN=write` rewrites them."""

import os
from pathlib import Path

# Taken out of the environment, where a stack refuses a setting that no part of it reads.
WRITES = os.environ.pop("MINT_GOLDEN", "") == "write"


def check_golden(file: Path, text: str) -> None:
    """Compare a text with its golden file, or make it that."""
    if WRITES:
        file.write_text(text)
    assert text == file.read_text()
