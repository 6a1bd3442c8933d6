"""The time of a batch is divided by the tokens of its policies' passes."""

import asyncio
import time
from functools import partial
from pathlib import Path

import pytest

from mint_common.events import LoraSpec
from services.trainer.adapters.model.resident_base import load_base
from services.trainer.adapters.policies.resident_policies import open_policies
from services.trainer.core.policy_work import Copy

from .policy_waves import LIMITS, TENANT, A, B, MakeRecord, begin_wave


async def test_policies_of_a_batch_share_its_seconds_by_their_tokens(
    tiny_folder: Path, lora: LoraSpec, make_record: MakeRecord
) -> None:
    load = partial(load_base, tiny_folder)
    async with open_policies(load, threads=1, limits=LIMITS, host_policies=1, max_tokens=2048) as policies:
        for policy_id in (A, B):
            await policies.admit(policy_id, lora, data=None)
        await policies.begin(A, TENANT, Copy(with_gradient=True))
        assert policies.take_seconds(A) == 0.0
        began = time.perf_counter()
        await asyncio.gather(*(begin_wave(policies, make_record(), policy_id=each) for each in (A, B)))
        took = time.perf_counter() - began
        seconds = [policies.take_seconds(policy_id) for policy_id in (A, B)]
        assert seconds[0] == pytest.approx(seconds[1])
        assert 0 < sum(seconds) <= took
        assert [policies.take_seconds(policy_id) for policy_id in (A, B)] == [0.0, 0.0]
        await begin_wave(policies, make_record(), policy_id=A)
        policies.forget(A)
        assert policies.take_seconds(A) == 0.0
