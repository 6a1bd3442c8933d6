"""Temporary folders, which are removed after use, or by the next registry on the machine after a kill."""

import asyncio
import errno
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mint_common.errors import Unavailable

PREFIX = "mint-registry-"
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True)
class Scratch:
    """Makes folders below one, or below the system's for temporary files."""

    root: Path | None = None

    @asynccontextmanager
    async def folder(self, prefix: str) -> AsyncIterator[Path]:
        """Yield an empty folder, which is removed at the end of the body. A full disk is Unavailable."""
        try:
            folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=prefix, dir=self.root))
            try:
                yield folder
            finally:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            problem = "its disk for temporary files is full: free some of it, or set TMPDIR"
            raise Unavailable(what="the registry", problem=problem) from error


TEMPORARY = Scratch()
"""Below the system's folder for temporary files."""
