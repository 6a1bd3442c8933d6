"""A request never waits for a compiler."""

from pathlib import Path
from typing import Any

import pytest

from mint_common.generation import Sampling
from tests.integration.loader.test_samples import ask

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]


async def test_no_sample_has_anything_compiled(rig: Any, compiled: Path) -> None:
    for many, seed in ((1, None), (3, None), (2, 7)):
        sampling = Sampling(max_new_tokens=4, temperature=1.0, seed=seed, n=many, logprobs=2, top_k=9)
        await rig.client.sample(ask(sampling=sampling))
    assert not list(compiled.rglob("*"))
