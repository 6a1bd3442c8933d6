"""A client that trains through three kill -9 of the trainer ends with the weights of one left alone."""

import asyncio

import asyncpg
import pytest
from tinker import types

from tests.integration.tinker.test_training import MODEL, datums

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(400),
]
STEPS, KILLED_AFTER = 24, (3, 9, 16)


def train(client, name: str, *, kill=lambda: None) -> list[object]:
    """Submit every step at once, kill after some results, and return all that was told."""
    under_way = []
    for step in range(STEPS):
        under_way.append(client.forward_backward(datums(seed=step), "cross_entropy"))
        adam = types.AdamParams(learning_rate=1e-3, weight_decay=0.01, grad_clip_norm=1.0)
        under_way.append(client.optim_step(adam))
    saved = client.save_state(name)
    for step in KILLED_AFTER:
        under_way[2 * step].result()
        kill()
    told = [future.result() for future in under_way]
    saved.result()
    passes = [(one.metrics, [dict(out) for out in one.loss_fn_outputs]) for one in told[::2]]
    return [*[(metrics, [out["logprobs"].tolist() for out in outs]) for metrics, outs in passes], *told[1::2]]


async def checkpoint_sha256(dsn: str, name: str) -> str:
    connection = await asyncpg.connect(dsn)
    try:
        query = "SELECT claim ->> 'sha256' FROM trainer.checkpoints WHERE name = $1"
        return str(await connection.fetchval(query, name))
    finally:
        await connection.close()


def test_three_kills_change_no_bit(service, stack):
    def kill() -> None:
        stack.kill("trainer")
        stack.start("trainer")

    calm = service.create_lora_training_client(base_model=MODEL, rank=4, seed=11)
    killed = service.create_lora_training_client(base_model=MODEL, rank=4, seed=11)
    left_alone = train(calm, "left-alone")
    disturbed = train(killed, "killed-thrice", kill=kill)
    assert disturbed == left_alone
    states = [asyncio.run(checkpoint_sha256(stack.dsn, name)) for name in ("left-alone", "killed-thrice")]
    assert states[0] == states[1]
