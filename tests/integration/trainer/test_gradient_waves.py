"""Waves of a job with a policy gradient of its own: trained as the job says, also when replayed."""

from dataclasses import replace

import pytest

from mint_common.events import Overlong, PolicyGradient

from .conftest import SPEC, Stage, ref

pytestmark = pytest.mark.integration

GRADIENT = PolicyGradient(
    advantage="rloo",
    loss="dppo",
    aggregation="sequence_mean",
    clip_low=0.2,
    clip_high=0.2,
    kl="reward",
    overlong=Overlong(buffer=4, mask=True),
)
OWN = replace(SPEC, gradient=GRADIENT, kl_coefficient=0.1, max_new_tokens=7)
TOLD = ("loss", "grad_norm", "kl", "masked_share", "effective_sample_share", "ratio_max", "sampler_kl")


async def test_a_replayed_wave_has_the_gradient_that_its_job_said(stage: Stage) -> None:
    """Without a snapshot, the second wave's result depends on the first one, done again from the log."""
    stage.settings = stage.settings.model_copy(update={"snapshot_seconds": 1e6})
    async with stage.trainer():
        await stage.publish(await stage.wave(1, spec=OWN))
        (first,) = await stage.exported(1)
        await stage.publish(await stage.wave(2, spec=OWN, revision=ref(first, 1)))
        straight = (await stage.exported(2))[1]
        await stage.publish(await stage.wave(1, policy="policy_b", spec=OWN))
        again = (await stage.exported(3))[2]
    async with stage.trainer():
        await stage.publish(await stage.wave(2, policy="policy_b", spec=OWN, revision=ref(again, 1)))
        replayed = (await stage.exported(4))[3]
        await stage.publish(await stage.wave(1, policy="policy_c", spec=replace(OWN, gradient=None)))
        usual = (await stage.exported(5))[4]
    assert [first.metrics[name] for name in TOLD] == [again.metrics[name] for name in TOLD]
    assert [straight.metrics[name] for name in TOLD] == [replayed.metrics[name] for name in TOLD]
    assert straight.metrics["kl"] != 0.0
    assert usual.metrics["grad_norm"] != first.metrics["grad_norm"]
    assert usual.metrics["tokens"] > first.metrics["tokens"], "answers of 7 tokens were cut off"
