"""The priority of the loader's processes that work in the background. Imports little: each of them does."""

import os
from contextlib import suppress
from pathlib import Path

from mint_common.runtime.processor_turns import take_long_turns

NICENESS = 5
"""Relative to the loader's: a quarter of a processor's time while anybody else wants it."""

_AUTOGROUP = Path("/proc/self/autogroup")
"""Where Linux shares processors by session, niceness counts within one only; a session has one of its own."""


def make_way() -> None:
    """Give way to every other process. This one leads a session of its own, or its session gives way, too."""
    os.nice(NICENESS)
    take_long_turns()
    with suppress(OSError):  # no autogroups here
        _AUTOGROUP.write_text(str(NICENESS))
