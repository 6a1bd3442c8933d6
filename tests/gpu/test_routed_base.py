"""A base with experts in bfloat16: packed adapters, and the routes of its tokens (R3)."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import torch
from safetensors.torch import load_file

from mint_common.adapters_format import WEIGHTS_FILE
from mint_common.runtime.clock import SystemClock
from services.loader.app import open_engine
from services.loader.settings import LoaderSettings
from tests.integration.loader.agreement import agreement
from tests.integration.loader.conftest import quietly
from tests.integration.loader.experts.test_routes import ASKING, answers, chosen
from tests.integration.loader.moe_base import Served, answer, logprobs_under, merged, random_adapter
from tools.make_moe_base import make_moe_base

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
]

SAME_ROUTES = 0.9
"""Of tokens and layers: where two experts score alike, rounding picks one."""

P50 = 0.1
"""Of the difference of a token's log-probabilities: some tokens go to other experts."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    narrow_settings: LoaderSettings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    """Start an engine over a base of 8 experts."""
    base = tmp_path_factory.mktemp("experts")
    facts = make_moe_base(base, experts=8)
    settings = LoaderSettings.model_validate(narrow_settings.model_dump() | {"base_dir": base})
    async with quietly(open_engine(settings, facts, SystemClock())) as (engine, _):
        yield Served(engine, base, facts)


async def test_routes_are_mostly_those_of_transformers(served: Served) -> None:
    prompt = tuple(range(5, 28))
    found = await answers(served, prompt, replace(ASKING, n=4))
    alike: list[np.ndarray] = []
    for tokens, routes in found:
        expected = chosen(served.base, (*prompt, *tokens[:-1]))
        assert routes.shape == expected.shape
        alike.append((np.sort(routes) == np.sort(expected)).all(axis=-1).ravel())
    assert np.concatenate(alike).mean() >= SAME_ROUTES


async def test_a_packed_adapter_answers_as_its_merged_model(served: Served, tmp_path: Path) -> None:
    folder = random_adapter(served.facts, tmp_path / "packed", seed=1)
    adapter = await served.load(folder)
    found = [await answer(served.engine, adapter, seed=seed, count=24) for seed in range(4)]
    await served.unload_all()
    model = merged(served.base, served.facts, load_file(folder / WEIGHTS_FILE))
    near = agreement(logprobs_under(model, found), found)
    assert near["p50"] <= P50, near
    bare = agreement(logprobs_under(merged(served.base, served.facts, zeros(folder)), found), found)
    assert bare["p50"] > 5 * near["p50"], (near, bare)


def zeros(folder: Path) -> dict[str, torch.Tensor]:
    """Return an adapter's tensors, all of them 0: the bare base."""
    return {name: torch.zeros_like(tensor) for name, tensor in load_file(folder / WEIGHTS_FILE).items()}
