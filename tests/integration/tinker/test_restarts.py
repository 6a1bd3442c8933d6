"""kill -9 of gateway and of both with operations under way: nothing is lost, nothing is done twice."""

import threading

import pytest
from tinker import types

from tests.integration.tinker.raw import open_run, wait
from tests.integration.tinker.test_training import MODEL, datums

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
STEPS = 8


def train(client, *, meanwhile=lambda: None) -> list[float]:
    """Submit all steps at once, let something happen, and return the losses."""
    under_way = []
    for _ in range(STEPS):
        under_way.append(client.forward_backward(datums(), "cross_entropy"))
        client.optim_step(types.AdamParams(learning_rate=1e-3))
    meanwhile()
    return [future.result().metrics["loss:sum"] for future in under_way]


def test_pipelined_steps_survive_a_kill_of_the_gateway(service, stack):
    undisturbed = train(service.create_lora_training_client(base_model=MODEL, rank=2, seed=5))

    def restart() -> None:
        stack.kill("gateway")
        stack.start("gateway")

    disturbed = service.create_lora_training_client(base_model=MODEL, rank=2, seed=5)
    disturbed.forward(datums(), "cross_entropy").result()
    killer = threading.Timer(0.05, restart)
    losses = train(disturbed, meanwhile=killer.start)
    killer.join()
    assert losses == pytest.approx(undisturbed, rel=1e-6)


def test_results_and_checkpoints_are_there_after_a_restart(stack):
    with stack.api() as api:
        run = open_run(api)
        asked = [
            run.submit_pass(datums(1)),
            run.submit("/optim_step", adam_params={"learning_rate": 1e-3}),
            run.submit("/save_weights", path="kept"),
            run.submit("/save_weights_for_sampler", path="shown"),
        ]
        before = [wait(api, request_id) for request_id in asked]
        for name in ("trainer", "gateway"):
            stack.kill(name)
        for name in ("trainer", "gateway"):
            stack.start(name)
    with stack.api() as api:
        assert [wait(api, request_id) for request_id in asked] == before
        run.api = api
        path = f"tinker://{run.model_id}/weights/kept"
        loaded = wait(api, run.submit("/load_weights", path=path, optimizer=True))
        assert loaded["path"] == path
        assert wait(api, run.submit_pass(datums(1)))["metrics"]["loss:sum"] > 0
