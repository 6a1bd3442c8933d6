"""The official SDK trains against the real gateway, registry and trainer."""

import numpy as np
import pytest
import tinker
from tinker import types

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]

MODEL = "mint/tiny"


def datums(count: int = 4, *, length: int = 12, seed: int = 0) -> list[types.Datum]:
    """Return sequences whose every token is followed by the next number."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        start = int(random.integers(0, 50))
        tokens = [(start + index) % 90 + 3 for index in range(length + 1)]
        found.append(
            types.Datum(
                model_input=types.ModelInput.from_ints(tokens[:-1]),
                loss_fn_inputs={
                    "target_tokens": np.array(tokens[1:], np.int64),
                    "weights": np.ones(length, np.float32),
                },
            )
        )
    return found


def step(client: tinker.TrainingClient, data: list[types.Datum], *, rate: float = 1e-3) -> float:
    """Take one step; both requests are under way at once."""
    passed = client.forward_backward(data, "cross_entropy")
    stepped = client.optim_step(types.AdamParams(learning_rate=rate))
    loss = passed.result().metrics["loss:sum"]
    stepped.result()
    return float(loss)


def test_a_run_learns_and_its_checkpoints_restore_it_exactly(service):
    client = service.create_lora_training_client(base_model=MODEL, rank=4, seed=3)
    info = client.get_info()
    assert (info.model_data.model_name, info.lora_rank, info.is_lora) == (MODEL, 4, True)
    assert client.get_tokenizer().vocab_size > 0
    data = datums()
    losses = [step(client, data) for _ in range(5)]
    assert losses[-1] < 0.8 * losses[0]
    saved = client.save_state("five").result().path
    went_on = [step(client, data) for _ in range(3)]
    restored = service.create_training_client_from_state_with_optimizer(saved)
    assert [step(restored, data) for _ in range(3)] == went_on
    bare = service.create_training_client_from_state(saved)
    first, second = step(bare, data), step(bare, data)
    assert first == went_on[0]
    assert second != went_on[1]


def test_gradients_add_up_over_chunks_and_custom_losses_are_exact(service):
    whole = service.create_lora_training_client(base_model=MODEL, rank=4, seed=3)
    parts = service.create_lora_training_client(base_model=MODEL, rank=4, seed=3)
    custom = service.create_lora_training_client(base_model=MODEL, rank=4, seed=3)
    data = datums()

    def nll(data, logprobs):
        total = -sum(each.sum() for each in logprobs)
        return total, {"mine": float(total)}

    one = whole.forward_backward(data, "cross_entropy").result()
    for half in (data[:2], data[2:]):
        parts.forward_backward(half, "cross_entropy").result()
    own = custom.forward_backward_custom(data, nll).result()
    assert own.metrics["mine"] == pytest.approx(one.metrics["loss:sum"], rel=1e-6)
    for client in (whole, parts, custom):
        client.optim_step(types.AdamParams(learning_rate=1e-2)).result()
    after = [client.forward(data, "cross_entropy").result() for client in (whole, parts, custom)]
    logprobs = [
        np.concatenate([out["logprobs"].to_numpy() for out in each.loss_fn_outputs]) for each in after
    ]
    np.testing.assert_allclose(logprobs[1], logprobs[0], rtol=1e-5)
    assert np.array_equal(logprobs[2], logprobs[0])


def test_a_sampler_is_saved_by_name_and_opened_at_once(service):
    client = service.create_lora_training_client(base_model=MODEL, rank=4)
    step(client, datums())
    named = client.save_weights_for_sampler("one").result()
    assert named.path.endswith(":train:0/sampler_weights/one")
    sampler = client.save_weights_and_get_sampling_client()
    assert sampler is not None
