"""A call into the engine that fails is the fault of what it is made for: the loader goes on."""

import asyncio
from typing import Any

import pytest

from mint_common.errors import EngineFailed, EngineRestarting
from services.loader.adapters.vllm.engine import VllmEngine

pytestmark = [
    pytest.mark.engine,
    # torch's, when vLLM's modules are imported
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
pytest.importorskip("vllm")


class FailingCalls:
    """vLLM, as far as calls into its loop go."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def collective_rpc(self, *_args: object, **_options: object) -> Any:
        """Fail."""
        raise self._error


def call(error: Exception) -> None:
    """Call a method of an engine whose calls fail."""
    engine: Any = object.__new__(VllmEngine)
    engine._llm = FailingCalls(error)
    asyncio.run(engine._call("mint_activate", 1))


def test_a_call_that_vllm_fails_is_an_error_that_slots_and_loads_contain() -> None:
    """A RuntimeError ended the loader, and again each time the working set brought the adapter back.

    It is no absence of the engine, which a rollout waits hours for.
    """
    with pytest.raises(EngineFailed, match="mint_activate failed: RuntimeError: no room") as raised:
        call(RuntimeError("no room"))
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_a_dead_engine_is_told_as_one() -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    with pytest.raises(EngineRestarting):
        call(EngineDeadError())
