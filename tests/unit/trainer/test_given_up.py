"""What is given up while it is finished leaves no state to go on from."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mint_common.events import LoraSpec
from mint_common.ids import WaveId
from mint_common.records import WaveRecord
from services.trainer.adapters.policies import resident_policies
from services.trainer.adapters.policies.tasks import carry_out
from services.trainer.core.batch import build_grpo_batch
from services.trainer.core.policy_work import TakeStep
from services.trainer.core.refusals import WaveStopped
from services.trainer.handlers.under_way import UnderWay

from .managed import wave_batch
from .policy_waves import ADAM, GRPO, TENANT, A, B, policies_of

MakeRecord = Callable[..., WaveRecord]


async def test_a_pass_that_is_given_up_while_it_is_finished_leaves_no_state_to_go_on_from(
    tiny_folder: Path, lora: LoraSpec, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go = threading.Event(), threading.Event()

    def held(*args: Any, **options: Any) -> Any:
        entered.set()
        go.wait(20)
        return carry_out(*args, **options)

    monkeypatch.setattr(resident_policies, "carry_out", held)
    batch = build_grpo_batch(make_record(seed=1))
    async with policies_of(tiny_folder, batch_tokens=4096, device_policies=2) as policies:
        for policy_id in (A, B):
            await policies.admit(policy_id, lora, data=None)
        under_way, came = UnderWay(), dict[int, object]()
        passing = policies.begin_pass(A, TENANT, wave_batch(batch, GRPO))
        under_way.add(1, passing, on_done=lambda: None)
        stepping = policies.begin(A, TENANT, TakeStep(step=ADAM, needs_gradient=True))
        under_way.add(2, stepping, on_done=lambda: None)
        other = policies.begin_pass(B, TENANT, wave_batch(batch, GRPO))
        await asyncio.to_thread(entered.wait, 20)
        under_way.stop(1, WaveStopped(wave_id=WaveId("wave_1")))
        go.set()
        await asyncio.gather(passing, stepping, other, return_exceptions=True)
        await asyncio.sleep(0)
        while under_way.has_result:
            under_way.take(lambda seq, result: came.update({seq: result}) is None)
        assert isinstance(came[1], WaveStopped)
        assert not policies.has(A)
        assert policies.has(B)
