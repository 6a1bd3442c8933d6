"""Training whose state is lost goes on from a revision when its owner says so."""

import asyncio

import asyncpg
import pytest

from tests.integration.tinker.raw import open_run, wait
from tests.integration.tinker.test_training import datums

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]

LOSE = """
    UPDATE trainer.training SET snapshot_position = position,
        snapshot = '{"uri": "training/gone/snapshots/1-x", "sha256": "00", "size_bytes": 1}'
    WHERE policy_id = $1
"""


async def lose_state(dsn: str, policy_id: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(LOSE, policy_id)
    finally:
        await connection.close()


def test_training_goes_on_from_a_revision(stack):
    with stack.api() as api:
        run = open_run(api)
        policy = f"{stack.url}/mint/v1/policies/{run.model_id.replace(':', '.')}"
        asked = [
            run.submit_pass(datums(1)),
            run.submit("/optim_step", adam_params={"learning_rate": 1e-3}),
            run.submit("/save_weights_for_sampler", path="shown"),
        ]
        before = [wait(api, request_id) for request_id in asked]
        assert before[0]["metrics"]["loss:sum"] > 0
        policy_id = api.get(policy).json()["policy_id"]
        stack.kill("trainer")
        asyncio.run(lose_state(stack.dsn, policy_id))
        stack.start("trainer")
        lost = wait(api, run.submit_pass(datums(1)))
        assert "cannot be restored" in lost["error"]
        resumed = api.post(f"{policy}/revisions/1/resume")
        assert resumed.status_code == 200, resumed.text
        assert (resumed.json()["number"], resumed.json()["step"]) == (1, 1)
        assert wait(api, run.submit_pass(datums(1)))["metrics"]["loss:sum"] > 0
        assert wait(api, run.submit("/optim_step", adam_params={"learning_rate": 1e-3}))
        assert api.post(f"{policy}/revisions/7/resume").status_code == 404
        paths = [row["path"] for row in api.get(f"{stack.url}/mint/v1/audit").json()]
        assert any(path.endswith("/resume") for path in paths)
