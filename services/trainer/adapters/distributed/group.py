"""Rank 0's side of the ranks: start those of its machine, unless torchrun has, load, watch, end.

Invariants: no rank outlives rank 0 (each sees its end of a pipe close); a rank's death is detected at once,
and then this process ends within `GRACE_SECONDS`, even in the middle of a step: its supervisor restarts the
group, and uncommitted work is repeated.
"""

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future, InvalidStateError
from contextlib import ExitStack, asynccontextmanager

from mint_common.errors import SettingInvalid
from services.trainer.adapters.distributed.ranks import host_store, joined_ranks
from services.trainer.adapters.distributed.shapes import base_bytes, load_sharded
from services.trainer.adapters.distributed.sharded_base import ShardedBase
from services.trainer.adapters.model.resident_base import load_base
from services.trainer.adapters.model.scoring import ScoringBase
from services.trainer.core.ranks import ProcessRank, RankLost, RankSetup, RankStart

_log = logging.getLogger(__name__)

GRACE_SECONDS = 15.0
"""A collective on a GPU may hang for as long as the timeout when its peer is gone."""
_LEAVE_SECONDS = 10.0


class RankGroup:
    """The ranks of a base as rank 0 has them; with one rank there is nothing to watch."""

    def __init__(self, setup: RankSetup, process: ProcessRank) -> None:
        self._setup = setup
        self._process = process
        self._lost: Future[None] = Future()
        self._closing = threading.Event()
        self._joined = ExitStack()
        self._children: list[subprocess.Popen[bytes]] = []
        self._last_resort: threading.Timer | None = None
        self._store = None
        if process.count > 1 and not process.launched:
            self._store = host_store(process.count, timeout_seconds=setup.timeout_seconds)
            self._children = [self._start(rank) for rank in range(1, process.count)]
            for rank, child in enumerate(self._children, start=1):
                threading.Thread(target=self._wait_for, args=(rank, child), daemon=True).start()

    def load(self) -> ScoringBase:
        """Load the base, in the thread that is to work with it. Raises SettingInvalid."""
        if self._process.count == 1:
            return load_base(self._setup.folder, self._setup.placement)
        ranks = self._joined.enter_context(joined_ranks(self._setup, self._process, store=self._store))
        passes = load_sharded(self._setup, ranks)
        base = ShardedBase(passes, ranks, lost=self.lose, timeout_seconds=self._setup.timeout_seconds)
        self._joined.callback(base.close)
        _log.info(
            "base spread over ranks",
            extra={
                "ranks": ranks.count,
                "sharding": self._setup.sharding,
                "device": str(ranks.device),
                "kept_bytes": base_bytes(passes.base.target_scores),
            },
        )
        return base

    def is_lost(self) -> bool:
        """Return whether the ranks no longer work together."""
        return self._lost.done()

    async def watch(self) -> None:
        """Wait for ever. Raises RankLost when the ranks no longer work together."""
        await asyncio.wrap_future(self._lost)

    def lose(self, error: RankLost) -> None:
        """Note that the ranks no longer work together: this process has to end."""
        if self._closing.is_set():
            return
        try:
            self._lost.set_exception(error)
        except InvalidStateError:
            return
        _log.error("rank lost", extra={"problem": str(error)})
        self._last_resort = threading.Timer(GRACE_SECONDS, os._exit, (1,))
        self._last_resort.daemon = True
        self._last_resort.start()

    def close(self) -> None:
        """Let the other ranks go, by force if they don't."""
        self._closing.set()
        try:
            self._joined.close()
        finally:
            for child in self._children:
                assert child.stdin is not None
                try:
                    child.wait(0 if self._lost.done() else _LEAVE_SECONDS)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
                child.stdin.close()
            if self._last_resort is not None:
                self._last_resort.cancel()

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        assert self._store is not None
        process = ProcessRank(rank=rank, count=self._process.count, local=rank)
        start = RankStart(process=process, port=self._store.port, setup=self._setup)
        command = [sys.executable, "-P", "-m", "services.trainer.adapters.distributed", start.encoded()]
        return subprocess.Popen(command, stdin=subprocess.PIPE)

    def _wait_for(self, rank: int, child: "subprocess.Popen[bytes]") -> None:
        status = child.wait()
        self.lose(RankLost(base=self._setup.folder.name, problem=f"rank {rank} ended with status {status}"))


@asynccontextmanager
async def open_group(setup: RankSetup, process: ProcessRank) -> AsyncIterator[RankGroup]:
    """Start the ranks of a base that are to be started here; leaving ends them."""
    if process.launched and process.rank:
        raise SettingInvalid(name="RANK", problem=f"{process.rank}: only rank 0 leads")
    group = RankGroup(setup, process)
    try:
        yield group
    finally:
        await asyncio.to_thread(group.close)
