"""The trainers: rendering, and their use of records."""

from mint_common.client.trainer import TrainerDirectory
from mint_common.datasets import Rendering, RenderRequest
from mint_common.ids import BaseName
from services.rollout.core.erasure import EndedJob


class Trainers:
    """Asks the trainer of the base."""

    def __init__(self, trainers: TrainerDirectory) -> None:
        self._trainers = trainers

    async def render(self, base: BaseName, request: RenderRequest) -> Rendering:
        """Return each row's rendering. Raises InvalidField, Overloaded, Unavailable."""
        return await (await self._trainers.find(base)).render(request)

    async def release(self, job: EndedJob) -> frozenset[str]:
        """Return the keys of records that training of the job's policy may still read.

        No other record of the job becomes needed later. Raises Unavailable.
        """
        trainer = await self._trainers.find(job.base)
        return await trainer.release_records(job.policy_id, job.untold)
