"""The port to the trainers' use of records."""

from mint_common.client.trainer import TrainerDirectory
from services.rollout.core.erasure import EndedJob


class TrainerRecords:
    """Asks the trainer of the base."""

    def __init__(self, trainers: TrainerDirectory) -> None:
        self._trainers = trainers

    async def release(self, job: EndedJob) -> frozenset[str]:
        """Return the records that are needed still."""
        trainer = await self._trainers.find(job.base)
        return await trainer.release_records(job.policy_id, job.untold)
