"""Routes come from where they can be had, and who asks where they cannot is refused."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mint_common.errors import InvalidField
from mint_common.generation import SampleRequest, Sampling
from mint_common.ids import TenantId
from services.loader.adapters.vllm.routes import UNKNOWN, returned_routes
from services.loader.adapters.vllm.starting import routed_layers
from services.loader.core.requests import Limits, check_sample
from services.loader.core.routes import RouteSource, route_source
from tools.make_moe_base import make_moe_base


@pytest.mark.parametrize(
    ("facts", "source"),
    [
        ({"has_experts": False}, RouteSource.NOTHING),
        ({"is_returned": True, "is_first_runner": False, "eager": False}, RouteSource.ENGINE),
        ({}, RouteSource.PLUGIN),
        ({"eager": False}, RouteSource.MISSING),
        ({"pipeline_parallel": 2}, RouteSource.MISSING),
        ({"is_first_runner": False}, RouteSource.MISSING),
    ],
)
def test_routes_come_from_where_they_can_be_had(facts: dict[str, bool], source: RouteSource) -> None:
    usual = {
        "has_experts": True,
        "is_returned": False,
        "is_first_runner": True,
        "eager": True,
        "pipeline_parallel": 1,
    }
    assert route_source(**(usual | facts)) is source


def test_who_asks_for_routes_that_cannot_be_had_is_refused() -> None:
    limits = Limits(max_context=8, vocab_size=8, max_completions=1, max_logprobs=0, no_routes="two stages")
    asked = SampleRequest(
        request_id="r",
        tenant_id=TenantId("t"),
        revision=None,
        tokens=(1,),
        sampling=Sampling(max_new_tokens=1, temperature=1.0),
    )
    check_sample(asked, limits)
    with pytest.raises(InvalidField, match=r"routes.*two stages"):
        check_sample(replace(asked, routes=True), limits)


def test_routes_that_vllm_returns_are_those_of_the_layers_with_experts() -> None:
    rows = np.arange(5 * 4 * 2, dtype=np.uint8).reshape(5, 4, 2)  # 5 tokens, 4 layers, 2 experts
    whole = SimpleNamespace(index=0, token_ids=[7, 8, 9], routed_experts=rows)
    short = SimpleNamespace(index=1, token_ids=[7, 8, 9], routed_experts=rows[:4])
    output = SimpleNamespace(prompt_token_ids=[1, 2, 3], outputs=[whole, short])
    found = {
        index: np.frombuffer(data, "<u2").reshape(5, 2, 2)
        for index, data in returned_routes(output, layers=(1, 3)).items()
    }
    assert np.array_equal(found[0], rows[:, [1, 3]])
    assert np.array_equal(found[1][:4], rows[:4, [1, 3]])
    assert (found[1][4] == UNKNOWN).all()


def test_layers_with_experts_are_numbered_by_their_names(tmp_path: Path) -> None:
    facts = make_moe_base(tmp_path, experts=4)
    layers = routed_layers(facts)
    assert len(layers) == len(facts.experts)
    assert all(any(f".layers.{layer}." in module for module in facts.experts) for layer in layers)
