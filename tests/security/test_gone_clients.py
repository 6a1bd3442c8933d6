"""Work for a client that has left ends: its turns at threads and engines are free again."""

import asyncio
import json

import pytest
from security.gateway_rig import Beyond, make_rig

from tests.testing.factories import EXACT

STRING_CHECK = {**EXACT, "reference": "4"}


class SlowRollout(Beyond):
    """Graders that never end by themselves."""

    async def forward(self, *_args, **_more):
        await asyncio.Event().wait()


@pytest.mark.parametrize("route", ["run", "validate"])
async def test_a_grader_that_is_tried_out_ends_when_its_client_leaves(route):
    rig = make_rig()
    rig.http.state.gateway.rollout = SlowRollout()
    body = {"grader": STRING_CHECK, **({"model_sample": "4"} if route == "run" else {})}
    async with asyncio.timeout(60):
        # The rig's client leaves as soon as its body has been read.
        path = f"/v1/fine_tuning/alpha/graders/{route}"
        answer = await rig.ask("POST", path, "train", body=json.dumps(body).encode())
    assert answer.status == 499
