"""A service tells the registry of its base, and is ready from then on."""

import asyncio
from collections.abc import Iterator
from typing import cast

import pytest

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.client.registry import BaseRegistration, RegistryClient
from mint_common.errors import InvalidField, MintError, Unavailable
from tests.testing.adapters import make_base_facts
from tests.testing.clock import ManualClock

AWAY = Unavailable(what="the registry", problem="refused")


class Refusing:
    """A registry that refuses as often as told, then takes the base."""

    def __init__(self, *refusals: MintError) -> None:
        self._refusals: Iterator[MintError] = iter(refusals)
        self.taken: list[BaseFacts] = []

    async def put_base(self, facts: BaseFacts) -> None:
        """Refuse or take."""
        for refusal in self._refusals:
            raise refusal
        self.taken.append(facts)


def registration(registry: Refusing, clock: ManualClock) -> BaseRegistration:
    return BaseRegistration(registry=cast(RegistryClient, registry), facts=make_base_facts(), clock=clock)


async def test_a_base_is_registered_once_the_registry_is_there() -> None:
    clock, registry = ManualClock(), Refusing(AWAY, AWAY)
    registering = registration(registry, clock)
    task = asyncio.create_task(registering.run())
    await clock.advance(0.3)
    assert not registering.is_done
    await clock.advance(0.4)
    await task
    assert registering.is_done
    assert registry.taken == [make_base_facts()]


async def test_a_refusal_that_no_retry_mends_is_raised() -> None:
    registering = registration(Refusing(InvalidField(field="name", problem="taken")), ManualClock())
    with pytest.raises(InvalidField):
        await registering.run()
    assert not registering.is_done
