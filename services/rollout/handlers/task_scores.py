"""Score answers by a task: an answer on which its verifier fails has no reward and affects no other."""

from collections.abc import Sequence
from contextlib import suppress

from mint_common.errors import TaskFailed
from mint_common.graders import Grade, GraderFault
from mint_common.ids import TenantId
from services.rollout.core.grading import fault_excess
from services.rollout.handlers.engine_requests import all_of
from services.rollout.ports import Tasks


class TaskScores:
    """The scores of one wave or run, of ``total`` answers, which may grow.

    It fails as soon as the verifier has failed on more than ``max_faults``, a share of all answers.
    """

    def __init__(
        self, tasks: Tasks, task: str, *, tenant_id: TenantId, total: int, max_faults: float
    ) -> None:
        self._tasks = tasks
        self._task = task
        self._tenant_id = tenant_id
        self.total = total
        self._max_faults = max_faults
        self.faults: list[GraderFault] = []

    async def grades(self, answers: Sequence[tuple[str, str]]) -> list[Grade | GraderFault]:
        """Return the reward of each answer, given with its prompt's entry, or why it has none.

        Raises TaskFailed on too many faults.
        """
        if len(answers) > 1:
            with suppress(TaskFailed):  # then each alone, with the time and memory of a whole call
                return [Grade(reward=reward) for reward in await self._score(answers)]
        return await all_of(self._grade(answer) for answer in answers)

    async def _grade(self, answer: tuple[str, str]) -> Grade | GraderFault:
        try:
            (reward,) = await self._score([answer])
        except TaskFailed as error:
            self.faults.append(fault := GraderFault("other_error", str(error.problem)))
            self._check()
            return fault
        return Grade(reward=reward)

    async def _score(self, answers: Sequence[tuple[str, str]]) -> list[float]:
        return await self._tasks.score(self._task, answers, tenant_id=self._tenant_id)

    def _check(self) -> None:
        excess = fault_excess(self.faults, total=self.total, max_share=self._max_faults)
        if excess is not None:
            raise TaskFailed(task=self._task, problem=f"no reward for {excess.share}: {excess.example}")
