"""The rendering port on the trainers."""

from mint_common.client.trainer import TrainerDirectory
from mint_common.datasets import Rendering, RenderRequest
from mint_common.ids import BaseName


class TrainerRendering:
    """Asks the trainer of the base."""

    def __init__(self, trainers: TrainerDirectory) -> None:
        self._trainers = trainers

    async def render(self, base: BaseName, request: RenderRequest) -> Rendering:
        """Return what becomes of rows."""
        return await (await self._trainers.find(base)).render(request)
