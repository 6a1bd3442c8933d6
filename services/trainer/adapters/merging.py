"""Merge weights in a separate process: bounded memory, one core at most, at the lowest priority.

Invariants: a process ends with its tar, and with the trainer, which closes the pipe; the staged
adapter is removed as soon as the process has mapped it; the next trainer removes what a killed one left.
"""

import asyncio
import logging
import math
import secrets
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import msgspec

from mint_common.adapters_format import stage_adapter
from mint_common.adapters_format.merged_tar import TarHead
from mint_common.blobs.port import Blobs
from mint_common.claims import Claim
from mint_common.errors import (
    InvalidField,
    MintError,
    Unavailable,
    error_from_payload,
    plain_problem,
)
from mint_common.ids import TenantId
from mint_common.tenant_budget import TenantBudget

_log = logging.getLogger(__name__)

FOLDER_PREFIX = "mint-merge-"
BYTES_PER_SECOND = 100 << 20
"""Maximum rate of all downloads together: bytes pass through the trainer's loop, and most of it is for
training."""
OF_A_TENANT = 2
"""Tars of a tenant at a time, whichever gateways ask for them."""
RETRY_AFTER_SECONDS = 10
HEAD_SECONDS = 240.0
"""Time limit to stage and check an adapter: a gateway waits 300 s for the first byte."""
_PART_BYTES = 256 << 10
_WHAT = "the merging of weights"
_KILLED = (-signal.SIGKILL, -signal.SIGTERM)
"""Exit statuses of a process that may succeed when it is started again."""
_EXIT_SECONDS = 10.0
_TOLD_BYTES = 2000
"""Bytes logged from the end of a process's standard error, where Python names the error."""
_COMMAND = (sys.executable, "-I", "-m", "mint_common.adapters_format.merged_tar")
_ENVIRON = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class MergingProcesses:
    """Streams tars of the base with a revision merged into it, and stores none.

    At most ``most`` run at a time, 0: none at all. A tenant has at most two of them, and of several never the
    last one.
    """

    def __init__(self, blobs: Blobs, base_dir: Path, folder: Path, *, most: int) -> None:
        self._blobs = blobs
        self._base_dir = base_dir
        self._folder = folder
        self._most = most
        self._open = TenantBudget(
            what=_WHAT,
            total=most,
            limit=max(1, min(OF_A_TENANT, most - 1)),
            share=math.inf,
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
        self._pace = ByteRate(BYTES_PER_SECOND)

    async def open(self, tenant_id: TenantId, manifest: Claim, *, begin: int) -> "ProcessTar":
        """Return the tar of a tenant's revision from a byte on; the caller closes it, read or not.

        Raises BlobMissing, BlobCorrupt, AdapterInvalid, RangeBeyond, InvalidField if merging is off,
        Overloaded, Unavailable; MintError when the process crashes, as it would again.
        """
        if not self._most:
            problem = "weights of its base are not given out here: download its adapter.tar instead"
            raise InvalidField(field="revision", problem=problem)
        try:
            async with AsyncExitStack() as stack, asyncio.timeout(HEAD_SECONDS):
                stack.enter_context(self._open.counted(tenant_id))
                merging, total_bytes = await self._begun(manifest, begin, stack)
                return ProcessTar(merging, total_bytes - begin, self._pace, stack.pop_all())
        except (OSError, TimeoutError) as error:
            raise Unavailable(what=_WHAT, problem=plain_problem(error)) from error

    async def _begun(self, manifest: Claim, begin: int, stack: AsyncExitStack) -> tuple["_Merging", int]:
        """Return a process that has mapped the adapter, and the size of its whole tar; ``stack`` ends it."""
        adapter = self._folder / secrets.token_hex(16)
        try:
            await stage_adapter(self._blobs, manifest, adapter)
            command = (*_COMMAND, str(self._base_dir), str(adapter), str(begin))
            process = await asyncio.create_subprocess_exec(
                *command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=_ENVIRON, limit=_PART_BYTES
            )
            merging = _Merging(process)
            stack.push_async_callback(merging.end)
            return merging, await _size(merging)
        finally:
            await asyncio.to_thread(shutil.rmtree, adapter, ignore_errors=True)


class ByteRate:
    """Bounds how many bytes pass in a second, of all who share it."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._free_at = 0.0

    def wait_seconds(self, size_bytes: int, *, now: float) -> float:
        """Return how long that many bytes wait, and count them."""
        begin = max(self._free_at, now)
        self._free_at = begin + size_bytes / self._bytes_per_second
        return begin - now


class ProcessTar:
    """A tar of ``size_bytes`` that is made while it is read. ``stack`` ends the process."""

    def __init__(self, merging: "_Merging", size_bytes: int, pace: ByteRate, stack: AsyncExitStack) -> None:
        self._merging = merging
        self._pace = pace
        self._stack = stack
        self.size_bytes = size_bytes

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the process's output, in turn with other tars. Raises Unavailable if it ends too soon."""
        left, loop = self.size_bytes, asyncio.get_running_loop()
        while part := await self._merging.output.read(_PART_BYTES):
            left -= len(part)
            await asyncio.sleep(self._pace.wait_seconds(len(part), now=loop.time()))
            yield part
        status, told = await self._merging.ending()
        ended = {"status": status, "left_bytes": left, "problem": told}
        if left:
            _log.error("merging process ended too soon", extra=ended)
            raise Unavailable(what=_WHAT, problem=f"its process ended {left} bytes too soon")
        if told:
            _log.warning("merging process wrote to standard error", extra=ended)

    async def close(self) -> None:
        """End the process. Idempotent."""
        await self._stack.aclose()


class _Merging:
    """A process that merges. Its standard error is read as it comes: a full pipe would hold it up."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self.output = process.stdout
        self._process = process
        self._told = b""
        self._listening = asyncio.create_task(self._listen())

    async def ending(self) -> tuple[int | None, str]:
        """Return the status once the output has ended, None while it has none, and its last words so far."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_SECONDS):
                await asyncio.shield(self._listening)
                await self._process.wait()
        return self._process.returncode, self._told.decode(errors="replace").strip()

    async def end(self) -> None:
        """Kill it and wait for its end. Idempotent."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
        await asyncio.shield(self._reap())

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        while part := await self._process.stderr.read(_PART_BYTES):
            self._told = (self._told + part)[-_TOLD_BYTES:]

    async def _reap(self) -> None:
        await self._listening
        # Reads what is left: Python 3.11 waits for the end of the pipe too, which a paused reader never sees.
        await self._process.communicate()


async def _size(merging: _Merging) -> int:
    """Return the size of the whole tar. Raises the error that the process reports instead."""
    line = b""
    try:
        line = await merging.output.readline()
        head = msgspec.json.decode(line, type=TarHead)
    except (ValueError, msgspec.DecodeError) as error:  # a line that is too long, or no head
        status, told = (None, "") if line else await merging.ending()
        _log.error("merging process failed", extra={"status": status, "problem": told or str(error)})
        if status in _KILLED:
            raise Unavailable(what=_WHAT, problem="its process was killed") from error
        raise MintError from error
    if head.error is not None:
        raise error_from_payload(head.error, what=_WHAT)
    return head.size_bytes
