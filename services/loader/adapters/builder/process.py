"""The builder: a low-priority process that fetches, checks and lays adapters out for the loader.

This work is mostly Python, hashing and copying: in the loader's process it would take the interpreter from
the event loop that relays every token, in the engine's from the steps. Here it uses only the processor time
that those leave.

Invariants: it ends when its socket does, and so with the loader; its memory has no name
in any file system; it holds nothing that cannot be recomputed.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

from mint_common.adapters_format import MANIFEST_FILE, WEIGHTS_FILE, read_base_facts, read_manifest
from mint_common.blobs.open import open_blobs
from mint_common.dtypes import Dtype
from mint_common.errors import MintError, Unavailable
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.low_priority import make_way
from mint_common.settings import BlobSettings
from services.loader.adapters.builder.arena import ArenaWriter
from services.loader.adapters.builder.disk_cache import DiskCache
from services.loader.adapters.builder.laying_out import lay_out
from services.loader.adapters.builder.wire import (
    Answer,
    CacheContents,
    Call,
    Failure,
    LaidOut,
    LayOut,
    Outcome,
    Ping,
    Release,
    Setup,
    Stage,
    Staged,
    Trim,
    Trimmed,
    Work,
    read_frame,
    write_frame,
)

P = ParamSpec("P")
T = TypeVar("T")

_seconds: ContextVar[list[tuple[str, float]]] = ContextVar("seconds")


class AtOnce(ThreadPoolExecutor):
    """An executor that runs a function in the calling thread.

    Threads would only take the interpreter from each other, and a thread switch takes longer
    than most of the work here. Only callers of this work wait for this process's loop.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run it; its outcome is there when this returns."""
        done: Future[T] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  # whoever asked raises it
            done.set_exception(error)
        return done


@dataclass(slots=True)
class BuilderLoop:
    """The builder's dependencies."""

    cache: DiskCache
    writer: asyncio.StreamWriter
    dtype: Dtype
    arena: ArenaWriter | None
    open_files: set[int] = field(default_factory=set)

    async def answer(self, call: Call) -> None:
        """Do one call and say what came of it; one that fails is a value."""
        try:
            outcome = await self._do(call.work)
        except MintError as error:
            outcome = self._failure(call.work, error)
        except OSError as error:
            outcome = self._failure(call.work, Unavailable(what="the builder", problem=str(error)))
        write_frame(self.writer, Answer(number=call.number, outcome=outcome))

    def release(self, laid_out: Release) -> None:
        """Free a range of the arena, or close a memory file."""
        if laid_out.in_arena:
            if self.arena is not None:
                self.arena.give_back(laid_out.handle)
        elif laid_out.handle in self.open_files:
            self.open_files.remove(laid_out.handle)
            os.close(laid_out.handle)

    async def _do(self, work: Work) -> Outcome:
        match work:
            case Stage():
                _seconds.set([])
                adapter = await self.cache.stage(work.revision)
                stored = self.cache.entry_of(adapter.digest)
                is_small = adapter.host_bytes <= work.ahead_bytes
                ahead = await self._lay_out(adapter.folder) if is_small else None
                return Staged(adapter=adapter, stored=stored, seconds=_seconds.get(), ahead=ahead)
            case Trim():
                before = {entry.digest for entry in self.cache.stored()}
                await self.cache.trim(keep=set(work.keep))
                return Trimmed(gone=sorted(before - {entry.digest for entry in self.cache.stored()}))
            case LayOut():
                return await self._lay_out(Path(work.folder))
            case Ping():
                return work
            case Release():
                raise AssertionError("nothing is answered")

    async def _lay_out(self, folder: Path) -> LaidOut:
        manifest = read_manifest((folder / MANIFEST_FILE).read_bytes())
        laid_out = await asyncio.to_thread(
            lay_out, folder / WEIGHTS_FILE, rank=manifest.rank, dtype=self.dtype, arena=self.arena
        )
        if not laid_out.in_arena:
            self.open_files.add(laid_out.handle)
        return laid_out

    def _failure(self, work: Work, error: MintError) -> Failure:
        is_stored = isinstance(work, Stage) and self.cache.holds(work.revision.digest)
        return Failure(
            error=cast("dict[str, str | float | bool | None]", error.to_payload()), is_stored=is_stored
        )


async def run(connection: socket.socket) -> None:
    """Work until the other side ends."""
    asyncio.get_running_loop().set_default_executor(AtOnce(1))
    reader, writer = await asyncio.open_connection(sock=connection)
    setup = await read_frame(reader, Setup)
    try:
        cache = await _open_cache(setup)
        arena = ArenaWriter(setup.arena, taken=setup.taken) if setup.arena else None
    except (MintError, OSError) as error:
        write_frame(writer, CacheContents(problem=str(error)))
        await writer.drain()
        return
    write_frame(writer, CacheContents(stored=cache.stored()))
    loop = BuilderLoop(cache, writer, setup.dtype, arena)
    async with asyncio.TaskGroup() as group:
        while True:
            call = await read_frame(reader, Call)
            if isinstance(call.work, Release):
                loop.release(call.work)
            else:
                group.create_task(loop.answer(call))


async def _open_cache(setup: Setup) -> DiskCache:
    cache = DiskCache(
        await open_blobs(BlobSettings.model_validate_json(setup.blobs)),
        read_base_facts(Path(setup.base_dir)),
        root=Path(setup.cache_dir),
        capacity_bytes=setup.disk_bytes,
        clock=SystemClock(),
        dtype=setup.dtype,
        observe=lambda stage, seconds: _seconds.get().append((stage, seconds)),
    )
    cache.open()
    return cache


def main(descriptor: int) -> None:
    """Run on one end of a socket pair."""
    make_way()
    try:
        asyncio.run(run(socket.socket(fileno=descriptor)))
    except* Unavailable:
        pass
    finally:
        os._exit(0)  # threads that still work would be waited for


if __name__ == "__main__":
    main(int(sys.argv[1]))
