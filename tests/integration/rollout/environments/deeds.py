"""An environment whose rewards do what the argument ``deed`` names; each may harm its episode alone."""

import asyncio
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from verifiers import Environment

LEAKED: list[bytearray] = []


class Deeds(Environment):
    """Rewards an answer that repeats the row; the row's number selects those that do the deed."""

    def __init__(self, deed: str, *, secrets: tuple[str, ...], port: int, of_rows: int) -> None:
        super().__init__()
        self._deed, self._secrets, self._port, self._of_rows = deed, secrets, port, of_rows

    @property
    def requires_group_rollouts(self) -> bool:
        return self._deed == "group"

    def reward(self, row: Any, answer: str) -> float:
        deed = getattr(self, f"do_{self._deed}", None)
        if deed is not None and row["example_id"] < self._of_rows:
            return deed()
        return float(answer == row["prompt"][0]["content"])

    async def rollout(self, row: Any, client: Any, model: str, sampling: dict[str, Any]) -> Any:
        if self._deed == "wait" and row["example_id"] < self._of_rows:
            await asyncio.sleep(3600)
        return await super().rollout(row, client, model, sampling)

    def do_fail(self) -> float:
        raise RuntimeError("no reward today")

    def do_nan(self) -> float:
        return float("nan")

    def do_huge(self) -> float:
        return 1e7

    def do_allocate(self) -> float:
        return float(len(bytearray(8 << 30)))

    def do_leak(self) -> float:
        LEAKED.append(bytearray(b"x" * (300 << 20)))
        return 1.0

    def do_write(self) -> float:
        for _ in range(1 << 10):
            sys.stdout.write("x" * (1 << 20))
        return 1.0

    def do_fill_the_disk(self) -> float:
        with Path("big").open("wb") as file:
            file.writelines(b"x" * (1 << 20) for _ in range(1 << 10))
        return 1.0

    def do_exit(self) -> float:
        time.sleep(0.3)  # until others have begun
        os._exit(3)

    def do_hang(self) -> float:
        time.sleep(3600)
        return 1.0

    def do_grow(self) -> float:
        blocks = []
        for _ in range(40):  # children share no limit of one process
            if os.fork() == 0:
                blocks.append(bytearray(b"x" * (30 << 20)))
                time.sleep(3600)
            time.sleep(0.2)
        return 1.0

    def do_fork(self) -> float:
        made = 0
        try:
            while made < 1200:
                if os.fork() == 0:
                    time.sleep(3600)
                    os._exit(0)
                made += 1
        except BlockingIOError:
            return float(made)
        return 1e5

    def do_connect(self) -> float:
        try:
            socket.create_connection(("127.0.0.1", self._port), 2).close()
        except OSError:
            return 1.0
        return -1.0

    def do_search(self) -> float:
        """Return how often a secret of the host is found in what can be read."""
        found = str(os.environ)
        places = [
            *Path("/proc").glob("*/environ"),
            *Path("/proc").glob("*/cmdline"),
            *map(Path, self._secrets),
        ]
        for place in places:
            try:
                found += place.read_text(errors="replace")
            except OSError:
                continue
        return float(found.count("the-secret") + found.count("MINT_"))


def load_environment(
    deed: str = "", secrets: tuple[str, ...] = (), port: int = 0, of_rows: int = 1 << 30
) -> Environment:
    if deed == "slow_to_load":
        time.sleep(2)
    return Deeds(deed, secrets=tuple(secrets), port=port, of_rows=of_rows)
