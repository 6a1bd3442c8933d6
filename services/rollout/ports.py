"""Ports of the rollout service."""

from collections.abc import Sequence
from typing import Protocol

from mint_common.ids import TenantId
from mint_common.records import Prompt
from services.rollout.core.task import Split, TaskInfo


class Tasks(Protocol):
    """The installed tasks, run in other processes, which tenants share fairly.

    Every call raises NotFound with near matches, TaskLeftOut, and TaskFailed, which names the task, when the
    task's code is wrong or takes too long. A call that is cancelled stops its work.
    """

    async def describe_all(self) -> list[TaskInfo]:
        """Return every task, by name. A family that does not load is left out."""
        ...

    async def describe(self, name: str) -> TaskInfo:
        """Return one task."""
        ...

    async def draw(self, name: str, split: Split, n: int, seed: int, *, tenant_id: TenantId) -> list[Prompt]:
        """Return ``n`` prompts of a split: the same ones for the same seed."""
        ...

    async def score(
        self, name: str, answers: Sequence[tuple[str, str]], *, tenant_id: TenantId
    ) -> list[float]:
        """Return the rewards of texts, each with the entry of the prompt that it answers."""
        ...
