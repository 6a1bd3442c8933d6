"""An engine of two workers, by its setting, serves packed and dense adapters as transformers computes."""

import asyncio
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mint_common.adapters_format import WEIGHTS_FILE
from mint_common.generation import SampleRequest, Sampling
from mint_common.ids import TenantId
from mint_common.runtime.clock import SystemClock
from services.loader.app import open_engine
from services.loader.settings import LoaderSettings
from tests.integration.loader.conftest import quietly
from tests.integration.loader.moe_base import (
    Served,
    load_base,
    logprobs_under,
    max_difference,
    merged,
    random_adapter,
)
from tools.make_moe_base import make_moe_base

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(400)]

TOLERANCE = 1e-4


async def test_two_workers_serve_packed_and_dense_adapters_together(
    engine_settings: LoaderSettings, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    facts = make_moe_base(base, experts=8)
    packed = random_adapter(facts, tmp_path / "packed", seed=1)
    dense = random_adapter(facts, tmp_path / "dense", seed=2, routed=False)
    changes = {"tensor_parallel": 2, "base_dir": base, "cache_dir": tmp_path / "cache"}
    settings = LoaderSettings.model_validate(engine_settings.model_dump() | changes)
    async with quietly(open_engine(settings, facts, SystemClock())) as (engine, _):
        assert len(await engine._call("mint_residents")) == 2
        served = Served(engine, base, facts)
        who = [None, await served.load(packed), await served.load(dense)]
        answers = await asyncio.gather(*(served.sample(one) for one in who))
        asked = SampleRequest(
            request_id="routed",
            tenant_id=TenantId("t"),
            revision=None,
            tokens=(5, 6, 7),
            sampling=Sampling(max_new_tokens=4, temperature=0.0),
            routes=True,
        )
        routed = await engine.sample(asked, request_id="routed", adapter=None)
        await served.unload_all()
    models = [load_base(base), *(merged(base, facts, load_file(f / WEIGHTS_FILE)) for f in (packed, dense))]
    for model, one in zip(models, answers, strict=True):
        assert max_difference(logprobs_under(model, [one]), [one]) < TOLERANCE
    assert len({one.logprobs for one in answers}) == 3
    assert routed.sequences[0].routes
