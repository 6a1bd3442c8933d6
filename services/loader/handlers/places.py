"""Places of the engine's adapters, which gateways and rollouts poll every few seconds: encoded once per
change.
"""

from collections.abc import Callable, Mapping

import msgspec

from mint_common.generation import AdapterPlaces, Place
from mint_common.ids import Digest

MAX_PLACES = 4096


class Places:
    """Numbers the changes of where adapters are, within a run of the engine (its epoch)."""

    def __init__(self, places: Callable[[int], Mapping[Digest, Place]], *, epoch: str) -> None:
        self._places = places
        self._epoch = epoch
        self._number = 0
        self._last: dict[Digest, Place] = {}
        self._answer = self._encoded(self._last)

    def since(self, known: str) -> bytes:
        """Return `AdapterPlaces` in JSON, without places for one who knows the newest version."""
        now = dict(self._places(MAX_PLACES))
        if now != self._last:
            self._number += 1
            self._last, self._answer = now, self._encoded(now)
        return self._encoded(None) if known == self._version else self._answer

    @property
    def _version(self) -> str:
        return f"{self._epoch}-{self._number}"

    def _encoded(self, places: dict[Digest, Place] | None) -> bytes:
        return msgspec.json.encode(AdapterPlaces(version=self._version, places=places))
