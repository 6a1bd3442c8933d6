"""The loader's side of the builder process: starts it, restarts it when it dies or hangs, and calls it.

Invariants: one builder at a time; calls left open by a dying builder are repeated with the next one, because
all work is repeatable; one that hangs is killed, and its open calls are repeated once; what was laid
out for a caller that has left is released.
"""

import asyncio
import itertools
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mint_common.claims import RevisionRef
from mint_common.dtypes import Dtype
from mint_common.errors import MintError, Unavailable, error_from_payload
from mint_common.ids import Digest
from mint_common.runtime.clock import Clock
from mint_common.settings import BlobSettings
from mint_common.waiting import cancel_all
from services.loader import metrics
from services.loader.adapters.builder.child import BuilderProcesses
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
from services.loader.core.disk_cache import StoredAdapter
from services.loader.ports import StagedAdapter

_log = logging.getLogger(__name__)

_READY_SECONDS = 60.0
_TRIES = 3
_BEATS = 4
"""Number of health checks of a builder within its time limit to answer one."""
_MAX_BUSY_BEATS = 10 * _BEATS
"""Maximum unanswered checks in a row of a busy builder: it may write gigabytes at the lowest priority on a
slow disk."""
_MIN_WORK_SECONDS = 0.01
"""Processor time between two questions below which a builder is idle."""
_MAX_HUNG = 1
_MAX_DYING = 3
"""Builders that were killed and have not died: each keeps its memory, so no more are started."""
_RETRY_SECONDS = 0.2
_MAX_UNACKED_STEPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class BuilderConfig:
    """A builder's configuration.

    ``silence_seconds``: maximum time without an answer before it counts as hanging; ``dtype``: the
    engine's; ``arena``: the path of the memory for adapters, empty if each has its own file; ``ahead_bytes``:
    adapters of at most this size are laid out as soon as they are on the disk.
    """

    blobs: BlobSettings
    base_dir: Path
    cache_dir: Path
    disk_bytes: int
    silence_seconds: float
    dtype: Dtype = "float32"
    arena: str = ""
    ahead_bytes: int = 0


class Builder:
    """Asks the builder process, which has the disk cache and lays adapters out."""

    def __init__(self, config: BuilderConfig, clock: Clock) -> None:
        self.pid = 0
        self._stored: dict[Digest, StoredAdapter] = {}
        self._stored_bytes = 0
        self._config = config
        self._clock = clock
        self._numbers = itertools.count(1)
        self._open: dict[int, asyncio.Future[Outcome]] = {}
        self._ahead: OrderedDict[Path, LaidOut] = OrderedDict()
        self._in_arena: dict[int, LaidOut] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._up = asyncio.Event()
        self._unheard = 0
        self._is_hung = False
        self._problem = ""
        self._processes = BuilderProcesses()

    async def stage(self, revision: RevisionRef) -> StagedAdapter:
        """Bring a revision's files to the local disk. Raises as `Staging.stage`."""
        outcome = await self._ask(Stage(revision=revision, ahead_bytes=self._config.ahead_bytes))
        match outcome:
            case Staged():
                if outcome.ahead is not None:
                    self._keep(outcome.adapter.folder, outcome.ahead)
                self._leave(revision.digest)
                self._enter(outcome.stored)
                for stage, seconds in outcome.seconds:
                    metrics.observe_load(stage, seconds)
                return outcome.adapter
            case Failure():
                if not outcome.is_stored:
                    self._leave(revision.digest)
                raise _error(outcome)
        raise AssertionError(outcome)

    async def trim(self, *, keep: Collection[Digest]) -> None:
        """Evict files beyond the cache's size."""
        if self._stored_bytes <= self._config.disk_bytes:
            return
        match outcome := await self._ask(Trim(keep=list(keep))):
            case Trimmed():
                for digest in outcome.gone:
                    self._leave(digest)
            case Failure():
                raise _error(outcome)

    def stored(self) -> Sequence[StoredAdapter]:
        """Return the stored adapters."""
        return list(self._stored.values())

    def holds(self, digest: Digest) -> bool:
        """Return whether an adapter is on the disk."""
        return digest in self._stored

    def size_of(self, digest: Digest) -> int | None:
        """Return the size of an adapter's weights, if it is on the disk."""
        entry = self._stored.get(digest)
        return entry.size_bytes if entry else None

    async def lay_out(self, folder: Path) -> LaidOut:
        """Lay an adapter out in memory.

        The caller releases it once the engine has mapped it; one in the arena once the engine has it no more.
        """
        ahead = self._ahead.pop(folder, None)
        if ahead is not None:
            return self._given(ahead)
        match outcome := await self._ask(LayOut(folder=str(folder))):
            case LaidOut():
                return self._given(outcome)
            case Failure():
                raise _error(outcome)
        raise AssertionError(outcome)

    def release(self, laid_out: LaidOut) -> None:
        """Release a laid out adapter."""
        if laid_out.in_arena:
            self._in_arena.pop(laid_out.handle, None)
        elif not laid_out.path.startswith(f"/proc/{self.pid}/"):
            return
        if self._writer is not None:
            release = Release(handle=laid_out.handle, in_arena=laid_out.in_arena)
            write_frame(self._writer, Call(number=0, work=release))

    def _given(self, laid_out: LaidOut) -> LaidOut:
        if laid_out.in_arena:
            self._in_arena[laid_out.handle] = laid_out
        return laid_out

    async def _ask(self, work: Work) -> Outcome:
        hung = 0
        for _ in range(_TRIES):
            writer = await self._ready()
            number = next(self._numbers)
            answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            self._open[number] = answer
            write_frame(writer, Call(number=number, work=work))
            try:
                return await answer
            except _BuilderEndedError as ended:
                hung += ended.hung
                if hung > _MAX_HUNG:
                    raise Unavailable(
                        what="the builder", problem="its process hung, and the next one"
                    ) from ended
            except asyncio.CancelledError:
                if answer.done() and not answer.cancelled() and answer.exception() is None:
                    self._drop(answer.result())
                raise
            finally:
                self._open.pop(number, None)
        raise Unavailable(what="the builder", problem=f"its process ended {_TRIES} times over one adapter")

    async def _ready(self) -> asyncio.StreamWriter:
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while self._writer is None:  # one may have come up, and ended before this went on
                    await self._up.wait()
        except TimeoutError as error:
            cause = f": {self._problem}" if self._problem else ""
            raise Unavailable(what="the builder", problem=f"its process does not start{cause}") from error
        return self._writer

    async def keep_running(self) -> None:
        """Run builders, one after the other, until cancelled."""
        while True:
            try:
                await self._run_one()
            except* Unavailable as ended:
                metrics.BUILDER_ENDS.inc()
                first = ended.exceptions[0]
                self._problem = str(first.fields["problem"] if isinstance(first, Unavailable) else first)
                _log.warning(
                    "the builder process has ended", extra={"pid": self.pid, "problem": self._problem}
                )
            except* OSError as ended:  # no process, memory or descriptor is left just now
                self._problem = str(ended.exceptions[0])
                _log.warning("the builder process does not start", extra={"problem": self._problem})
            await self._clock.sleep(_RETRY_SECONDS)
            while self._processes.dying >= _MAX_DYING:
                await self._clock.sleep(_RETRY_SECONDS)

    def close(self) -> None:
        """Wait for processes that have been killed; blocks, for seconds if one does not die."""
        self._processes.close()

    async def _run_one(self) -> None:
        process, ours = self._processes.start()
        self.pid = process.pid
        writer: asyncio.StreamWriter | None = None
        try:
            reader, writer = await asyncio.open_connection(sock=ours)
            await self._open_up(reader, writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(writer))
                while True:
                    self._take(await read_frame(reader, Answer))
        finally:
            self._up.clear()
            self._writer = None
            self._ahead.clear()
            if writer is not None:
                writer.close()
            for answer in self._open.values():
                if not answer.done():
                    answer.set_exception(_BuilderEndedError(hung=self._is_hung))
            self._processes.end(process)

    async def _open_up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        setup = self._setup()
        write_frame(writer, setup)
        try:
            async with asyncio.timeout(_READY_SECONDS):
                contents = await read_frame(reader, CacheContents)
        except TimeoutError as error:
            raise _hangs(_READY_SECONDS) from error
        if contents.problem:
            raise Unavailable(what="the builder", problem=contents.problem)
        self._problem = ""
        self._stored, self._stored_bytes = {}, 0
        for entry in contents.stored:
            self._enter(entry)
        self._writer, self._unheard, self._is_hung = writer, 0, False
        for begin in {begin for begin, _ in setup.taken} - self._in_arena.keys():  # given back meanwhile
            write_frame(writer, Call(number=0, work=Release(handle=begin, in_arena=True)))
        self._up.set()

    async def _watch(self, writer: asyncio.StreamWriter) -> None:
        """Raise Unavailable once the builder leaves questions unanswered, and uses no processor meanwhile.

        Unanswered questions are counted, so that a time in which this process itself was stopped is not
        silence. A builder that checks or converts a large adapter answers none, but works: that is not
        silence for a while.
        """
        silent = busy = 0
        used = self._processes.processor_seconds()
        while silent < _BEATS and busy < _MAX_BUSY_BEATS:
            self._unheard += 1
            write_frame(writer, Call(number=0, work=Ping()))
            await self._clock.sleep(self._config.silence_seconds / _BEATS)
            before, used = used, self._processes.processor_seconds()
            is_idle = used - before < _MIN_WORK_SECONDS
            silent = silent + 1 if self._unheard and is_idle else 0
            busy = busy + 1 if self._unheard else 0
        self._is_hung = True
        raise _hangs(self._config.silence_seconds * (silent or busy) / _BEATS)

    def _take(self, answer: Answer) -> None:
        self._unheard = 0
        waiting = self._open.get(answer.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer.outcome)
        else:
            self._drop(answer.outcome)

    def _drop(self, outcome: Outcome) -> None:
        """Release adapters that no caller waits for."""
        if isinstance(outcome, LaidOut):
            self.release(outcome)
        elif isinstance(outcome, Staged) and outcome.ahead is not None:
            self.release(outcome.ahead)

    def _keep(self, folder: Path, laid_out: LaidOut) -> None:
        """Hold an adapter laid out ahead; if its load found no memory, only until others arrive."""
        before = self._ahead.pop(folder, None)
        self._ahead[folder] = laid_out
        if before is None and len(self._ahead) > _MAX_UNACKED_STEPS:
            _, before = self._ahead.popitem(last=False)
        if before is not None:
            self.release(before)

    def _enter(self, entry: StoredAdapter) -> None:
        self._stored[entry.digest] = entry
        self._stored_bytes += entry.size_bytes

    def _leave(self, digest: Digest) -> None:
        entry = self._stored.pop(digest, None)
        self._stored_bytes -= entry.size_bytes if entry else 0

    def _setup(self) -> Setup:
        config = self._config
        return Setup(
            base_dir=str(config.base_dir),
            cache_dir=str(config.cache_dir),
            disk_bytes=config.disk_bytes,
            blobs=config.blobs.model_dump_json(),
            dtype=config.dtype,
            arena=config.arena,
            taken=[(each.begin, each.size_bytes) for each in self._in_arena.values()],
        )


@asynccontextmanager
async def open_builder(config: BuilderConfig, clock: Clock) -> AsyncIterator[Builder]:
    """Run a builder during the block."""
    builder = Builder(config, clock)
    running = asyncio.create_task(builder.keep_running())
    try:
        yield builder
    finally:
        await cancel_all(running)
        await asyncio.to_thread(builder.close)


class _BuilderEndedError(Exception):
    """The builder that had the call is gone; ``hung``: it was killed, as it no longer answered."""

    def __init__(self, *, hung: bool) -> None:
        super().__init__()
        self.hung = hung


def _hangs(seconds: float) -> Unavailable:
    metrics.BUILDER_HANGS.inc()
    return Unavailable(what="the builder", problem=f"its process has said nothing for {seconds:g} s")


def _error(refused: Failure) -> MintError:
    return error_from_payload(refused.error, what="the builder")
