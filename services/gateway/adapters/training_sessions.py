"""Which exports training sessions hold, asked of every trainer."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from mint_common.client.http import InternalHttp
from mint_common.errors import Unavailable
from mint_common.ids import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class _SessionList:
    held: tuple[Digest, ...]


class TrainerSessions:
    """See `ports.TrainingSessions`."""

    def __init__(self, trainers: Sequence[InternalHttp]) -> None:
        self._trainers = trainers

    async def digests(self) -> set[Digest]:
        """Return what sessions exported last, and what that was trained from."""
        found: set[Digest] = set()
        for trainer in self._trainers:
            answer = await trainer.get("/internal/sessions")
            try:
                found.update(msgspec.convert(answer, _SessionList).held)
            except msgspec.ValidationError as error:
                raise Unavailable(what="a trainer", problem=str(error)) from error
        return found
