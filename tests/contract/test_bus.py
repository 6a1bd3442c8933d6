"""The bus contract, against the memory adapter and a real NATS server."""

import pytest

from mint_common.bus.nats import connect_nats
from mint_common.runtime.clock import SystemClock
from mint_common.testing.bus_contract import BUS_CONTRACT, Check
from mint_common.testing.bus_memory import MemoryBus


@pytest.mark.parametrize("check", BUS_CONTRACT, ids=lambda check: check.__name__)
async def test_memory(check: Check) -> None:
    await check(MemoryBus(SystemClock()))


@pytest.mark.integration
@pytest.mark.parametrize("check", BUS_CONTRACT, ids=lambda check: check.__name__)
async def test_nats(check: Check, nats_url: str) -> None:
    bus = await connect_nats(nats_url, name="contract")
    try:
        await check(bus)
    finally:
        await bus.close()
