"""A trainer as a process that a test kills with SIGKILL, and starts again at the same address."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable, Coroutine
from functools import partial
from multiprocessing.process import BaseProcess

from mint_common.client.http import InternalHttp
from mint_common.client.trainer import TrainerClient
from mint_common.errors import Unavailable
from mint_common.runtime.service import run_process
from services.trainer.app import run
from services.trainer.core.ranks import ProcessRank
from services.trainer.settings import TrainerSettings, read_process_rank

# Rank 0 is a fork; each further rank is a new process that imports torch, and deepspeed for ZeRO.
START_SECONDS = 300.0

# One server process imports torch and transformers once; each trainer is a fork of it.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["services.trainer.app", "transformers.models.llama.modeling_llama"])


class MortalTrainer:
    """A trainer process; ``settings`` name a fixed port, and how many ranks it starts."""

    def __init__(self, settings: TrainerSettings) -> None:
        self.settings = settings
        self.rank = read_process_rank({}, settings)
        self.process: BaseProcess | None = None
        self.run: Callable[[TrainerSettings, ProcessRank], Coroutine[None, None, None]] = run

    def client(self) -> TrainerClient:
        """Return a client of it, and of its successors."""
        return TrainerClient(InternalHttp(self.url, token="secret"))

    @property
    def url(self) -> str:
        """Return where it answers, and its successors."""
        return f"http://127.0.0.1:{self.settings.http_port}"

    @property
    def pid(self) -> int:
        """Return the process of rank 0."""
        assert self.process is not None
        assert self.process.pid is not None
        return self.process.pid

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        self.process = _FORKS.Process(
            target=run_process, args=(partial(self.run, self.settings, self.rank),), daemon=True
        )
        self.process.start()
        client = self.client()
        try:
            async with asyncio.timeout(START_SECONDS):
                while True:
                    try:
                        await client.describe()
                    except Unavailable:
                        assert self.process.is_alive(), self.process.exitcode
                        await asyncio.sleep(0.02)
                    else:
                        return
        finally:
            await client.aclose()

    def kill(self) -> None:
        """Send SIGKILL, and reap."""
        if self.process is not None:
            self.process.kill()
            self.process.join()

    def freeze(self) -> None:
        """Stop it as if it were dead, its connections open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on where it was."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)
