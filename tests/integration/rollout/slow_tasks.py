"""Tasks that misbehave in ways that only a process of their own survives."""

import os
import signal
import sys
import time
from typing import cast

from mint_common.records import Prompt
from services.rollout.core.task import Split
from tests.unit.rollout.broken_tasks import Broken

MEMBERS = ("quick", "slow", "crash", "exit", "huge", "memory", "odd", "unsendable", "once")


class Slow:
    """`slow:<fault>`: what drawing does; ``n`` is how long or how large. Scoring sleeps by the entry.

    The description tells the process that describes.
    """

    description = str(os.getpid())
    defaults = Broken.defaults

    def __init__(self, member: str) -> None:
        self.name = f"slow:{member}"
        self._member = member

    @staticmethod
    def members() -> tuple[str, ...]:
        """Return the faults."""
        return MEMBERS

    def prompts(self, split: Split, n: int, seed: int) -> list[Prompt]:
        """Return prompts that tell the process, or do what the name says."""
        match self._member:
            case "slow":
                time.sleep(n)
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "exit":
                sys.exit("over")
            case "huge":
                return [Prompt(text="x" * (1 << 20), reference="", entry="")] * n
            case "memory":
                return [Prompt(text=str(len(bytearray(8 << 30))), reference="", entry="")]
            case "odd":
                return cast("list[Prompt]", [{"text": 1}])
            case "unsendable":
                return cast("list[Prompt]", [object()])
        secrets = sorted(name for name in os.environ if name.startswith("MINT_"))
        return [Prompt(text=str(os.getpid()), reference=",".join(secrets), entry=str(seed))] * n

    def reward(self, entry: str, text: str) -> float:
        """Take as long as the entry says, or end as it says."""
        if entry == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if entry == "memory":
            return float(len(bytearray(8 << 30)))
        time.sleep(float(entry))
        return float(text)
