"""Clients drive a trainer of two ranks as they drive one: the same results, and kill -9 changes no bit.

The other rank ends with rank 0.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import psutil
import pytest
import safetensors.numpy

from mint_common.ids import PolicyId
from mint_common.training import (
    CheckpointRef,
    Distilled,
    Done,
    Exported,
    Operation,
    Outcome,
    Passed,
    Saved,
    Stepped,
)
from services.standalone.adapters.launch import free_port
from services.trainer.adapters.states.stored_states import fetch_weights
from services.trainer.core.ranks import Sharding
from tests.processes import until_ended

from .conftest import Stage
from .killing import MortalTrainer
from .operating import make_distill, serving
from .test_operation_crashes import make_script, patiently_wait, told, train

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1200)]

SEED, TOLERANCE = 7, 1e-5
ALONE, TOGETHER, KILLED = (PolicyId(f"policy_{name}") for name in ("alone", "together", "killed"))


def script_of(policy_id: PolicyId) -> list[Operation]:
    """Return what the crash tests do, and a distillation from an older self before the end."""
    script = make_script(SEED, policy_id)
    early = CheckpointRef(policy_id, "training", "early")
    return [*script[:-2], make_distill(SEED, early), *script[-2:]]


def spread(stage: Stage, sharding: Sharding) -> MortalTrainer:
    """Return a trainer of two ranks that is not started yet."""
    changes = {
        "ranks": 2,
        "sharding": sharding,
        "http_port": free_port(),
    }
    return MortalTrainer(stage.settings.model_copy(update=changes))


def ranks_of(mortal: MortalTrainer) -> list[psutil.Process]:
    """Return the processes of a trainer's other ranks."""
    found = []
    for child in psutil.Process(mortal.pid).children():
        with suppress(psutil.NoSuchProcess):  # also raised of a zombie
            found += [child] if "adapters.distributed" in " ".join(child.cmdline()) else []
    return found


async def weights_of(stage: Stage, outcome: Outcome) -> dict[str, np.ndarray]:
    """Return the tensors that a save or an export stored."""
    assert isinstance(outcome, Done)
    result = outcome.result
    assert isinstance(result, Saved | Exported)
    assert result.checkpoint is not None
    claim = result.checkpoint.claim
    is_state = isinstance(result, Saved)
    data = await stage.blobs.get(claim) if is_state else await fetch_weights(stage.blobs, claim)
    tensors: dict[str, np.ndarray] = safetensors.numpy.load(data)
    return tensors


async def assert_alike(stage: Stage, found: Sequence[Outcome], expected: Sequence[Outcome]) -> None:
    """Compare results within rounding: summing over ranks has another order."""
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Done) == isinstance(other, Done)
        if not (isinstance(one, Done) and isinstance(other, Done)):
            assert one == other
        elif isinstance(one.result, Passed | Stepped):
            assert isinstance(other.result, Passed | Stepped)
            assert one.result.metrics == pytest.approx(other.result.metrics, rel=1e-4, abs=TOLERANCE)
        elif isinstance(one.result, Distilled):
            assert isinstance(other.result, Distilled)
            assert one.result.losses == pytest.approx(other.result.losses, rel=1e-4, abs=TOLERANCE)
        elif isinstance(one.result, Saved | Exported):
            theirs = await weights_of(stage, other)
            for name, array in (await weights_of(stage, one)).items():
                np.testing.assert_allclose(array, theirs[name], atol=TOLERANCE, rtol=0, err_msg=name)


@pytest.mark.parametrize(
    "sharding", ["data", *(pytest.param(one, marks=pytest.mark.slow) for one in ("fsdp", "zero3", "tensor"))]
)
async def test_operations_over_two_ranks_are_those_of_one(stage: Stage, sharding: Sharding) -> None:
    async with stage.trainer() as trainer, serving(trainer) as client:
        expected = await train(client, script_of(ALONE), ALONE)
    mortal = spread(stage, sharding)
    client = mortal.client()
    try:
        await mortal.start()
        found = await train(client, script_of(TOGETHER), TOGETHER)
        await assert_alike(stage, found, expected)
        async with asyncio.TaskGroup() as group:
            training = group.create_task(train(client, script_of(KILLED), KILLED))
            await patiently_wait(client, KILLED, 2)
            (rank,) = ranks_of(mortal)
            mortal.kill()
            await until_ended([rank])
            await mortal.start()
    finally:
        await client.aclose()
        mortal.kill()
    assert told(training.result()) == told(found)
