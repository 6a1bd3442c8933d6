"""``mint/forward_backward_reverse_kl`` of Mind Lab's toolkit, over the wire."""

import itertools

import httpx
import pytest

from tests.integration.tinker.raw import RawRun, open_run, wait
from tests.integration.tinker.test_training import datums

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
ROUTE = "mint/forward_backward_reverse_kl"


@pytest.fixture(scope="module")
def api(stack):
    with stack.api() as client:
        yield client


def prompt(*tokens: int) -> dict:
    return {"chunks": [{"type": "encoded_text", "tokens": list(tokens)}]}


def lesson(**changed: object) -> dict:
    return {
        "student_input": prompt(5, 6),
        "reference_input": prompt(9, 5, 6),
        "target_tokens": {"data": [7, 8, 9], "dtype": "float32"},
        "weights": {"data": [1.0, 1.0, 0.0], "dtype": "float32", "shape": [3]},
        **changed,
    }


def learn(api: httpx.Client, run: RawRun, path: str, **changed: object) -> dict:
    """Distill without a number, as the toolkit does."""
    answer = run.post(ROUTE, reference_model_path=path, data=[lesson(**changed)], temperature=1.0)
    assert answer.status_code == 200, answer.text
    return wait(api, answer.json()["request_id"])


def trained(api: httpx.Client, *, seed: int) -> tuple[RawRun, str]:
    """Return a run that took a step, and its sampler checkpoint."""
    run = open_run(api, seed=seed)
    run.submit_pass(datums())
    run.submit("optim_step", adam_params={"learning_rate": 1e-2})
    return run, wait(api, run.submit("save_weights_for_sampler", path="it"))["path"]


def test_a_policy_comes_nearer_to_its_teacher(api):
    _, path = trained(api, seed=1)
    student, itself = trained(api, seed=2)
    told = learn(api, student, itself, reference_input=prompt(5, 6))
    assert told["type"] == "mint_forward_backward_reverse_kl"
    assert abs(told["outputs"][0]["loss"]["data"][0]) < 1e-5
    assert told["metrics"]["num_tokens:sum"] == 2.0
    losses = []
    for _ in range(5):
        told = learn(api, student, path)
        assert [len(told["outputs"]), told["outputs"][0]["loss"]["shape"]] == [1, [1]]
        assert told["metrics"]["reverse_kl:mean"] == pytest.approx(told["outputs"][0]["loss"]["data"][0] / 2)
        losses.append(told["metrics"]["reverse_kl:mean"])
        wait(api, student.submit("optim_step", adam_params={"learning_rate": 1e-3}))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_repetitions_of_a_request_are_one(api):
    run, path = trained(api, seed=4)
    body = {"model_id": run.model_id, "reference_model_path": path, "data": [lesson()]}
    keyed = {"x-idempotency-key": "stainless-python-retry-1"}
    first, again = (api.post(f"/{ROUTE}", json=body, headers=keyed) for _ in range(2))
    assert first.json() == again.json()
    other = api.post(f"/{ROUTE}", json={**body, "temperature": 2.0}, headers=keyed)
    assert (other.status_code, other.json()["code"]) == (422, "operation_conflict")
    fresh = [api.post(f"/{ROUTE}", json=body).json()["request_id"] for _ in range(2)]
    assert len({first.json()["request_id"], *fresh}) == 3
    assert wait(api, fresh[1])["outputs"] == wait(api, first.json()["request_id"])["outputs"]


def test_what_is_wrong_is_refused_by_its_name(api, stack):
    run, path = trained(api, seed=3)
    numbers = itertools.count(100)

    def refused(field: str, status: int = 422, *, where: str = path, client: httpx.Client = api, **changed):
        body = {"model_id": run.model_id, "reference_model_path": where, "data": [lesson(**changed)]}
        answer = client.post(f"/{ROUTE}", json={**body, "seq_id": next(numbers)})
        assert (answer.status_code, answer.headers["x-should-retry"]) == (status, "false"), answer.text
        assert field in answer.json()["detail"], answer.text

    refused("reference_model_path", where="weights/it")
    refused("checkpoint", 404, where=path + "-not")
    refused("data[0].student_input", student_input=prompt())
    refused("data[0].reference_input", reference_input={"chunks": [{"type": "image"}]})
    refused("data[0].target_tokens", target_tokens={"data": [1.5, 2, 3], "dtype": "int64"})
    refused("data[0].weights", weights={"data": [1.0], "dtype": "float32"})
    with stack.api(key=stack.other_key) as other:
        refused("training run", 404, client=other)
