"""Registers a service's resident base with the registry when the service starts."""

import logging

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.client.registry import RegistryClient
from mint_common.errors import MintError
from mint_common.runtime.clock import Clock

_log = logging.getLogger(__name__)

_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 0.2, 5.0


class BaseRegistration:
    """Registers the facts of one base."""

    def __init__(self, *, registry: RegistryClient, facts: BaseFacts, clock: Clock) -> None:
        self.is_done = False
        self._registry = registry
        self._facts = facts
        self._clock = clock

    async def run(self) -> None:
        """Return when the registry has the facts, however long that takes. Raises what no retry mends."""
        delay_seconds = _FIRST_RETRY_SECONDS
        while not self.is_done:
            try:
                await self._registry.put_base(self._facts)
                self.is_done = True
            except MintError as error:
                if not error.retryable:
                    raise
                _log.info("the registry is not ready", extra={"retry_seconds": delay_seconds})
                await self._clock.sleep(delay_seconds)
                delay_seconds = min(2 * delay_seconds, _LAST_RETRY_SECONDS)
