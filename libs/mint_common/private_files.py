"""Make files private: prompts, records, adapters, logs and secrets are readable by MinT's user only."""

import os

PRIVATE_UMASK = 0o077


def make_files_private() -> None:
    """Give new files mode 0600 and new folders 0700, in this process and in those that it starts."""
    os.umask(PRIVATE_UMASK)
