"""The place of the model door's unix socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from mint_common.runtime.held_folder import hold_folder


@asynccontextmanager
async def open_door_socket() -> AsyncIterator[Path]:
    """Return a path in a folder that processes of other users can enter but not list; leaving removes it."""
    folder = await asyncio.to_thread(hold_folder, "mint-door-")
    try:
        await asyncio.to_thread(folder.path.chmod, 0o711)
        yield folder.path / "socket"
    finally:
        await asyncio.to_thread(folder.remove)
