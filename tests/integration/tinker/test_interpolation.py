"""Mind Lab's ``checkpoints/interpolate``: a checkpoint out of several, as durable as any other."""

import httpx
import numpy as np
import pytest
from safetensors.numpy import load

from tests.integration.tinker.raw import open_run, wait
from tests.integration.tinker.test_training import datums

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
ROUTE = "/mint/checkpoints/interpolate"
ADAM = {"learning_rate": 1e-2}


@pytest.fixture(scope="module")
def api(stack):
    with stack.api() as client:
        yield client


def saved(api: httpx.Client, *, seed: int, rank: int = 2) -> tuple[str, str]:
    """Return a training checkpoint and a sampler checkpoint of a run that took a step."""
    run = open_run(api, seed=seed, rank=rank)
    run.submit_pass(datums())
    run.submit("optim_step", adam_params=ADAM)
    futures = [run.submit(route, path="it") for route in ("save_weights", "save_weights_for_sampler")]
    state, sampler = (wait(api, future)["path"] for future in futures)
    return state, sampler


@pytest.fixture(scope="module")
def sources(api):
    return [saved(api, seed=seed) for seed in (1, 2)]


def mix(api: httpx.Client, paths: list[str], coefficients: list[float], **wish: object) -> dict:
    body = {"source_paths": paths, "coefficients": coefficients, **wish}
    answer = api.post(ROUTE, json=body)
    assert answer.status_code == 200, answer.text
    return wait(api, answer.json()["request_id"])


def weights(api: httpx.Client, path: str) -> dict[str, np.ndarray]:
    run, kind, name = path.removeprefix("tinker://").split("/")
    urls = api.get(f"/training_runs/{run}/checkpoints/{kind}/{name}/external_weights_urls").json()["urls"]
    return load(httpx.get(urls["adapter_model.safetensors"]).raise_for_status().content)


def test_weights_are_the_weighted_sum(api, sources):
    (_, one), (state, two) = sources
    told = mix(api, [one, two], [0.25, 0.75], output_path="blend")
    run = told["path"].split("/")[2]
    assert told == {
        "type": "mint_interpolate_checkpoints",
        "path": f"tinker://{run}/sampler_weights/blend",
        "checkpoint_type": "sampler",
        "source_paths": [one, two],
        "coefficients": [0.25, 0.75],
        "has_rank_shards": False,
    }
    mixed, first, second = (weights(api, path) for path in (told["path"], one, two))
    assert set(mixed) == set(first)
    for name in mixed:
        np.testing.assert_allclose(
            mixed[name], 0.25 * first[name] + 0.75 * second[name], rtol=1e-5, atol=1e-7
        )
    # Training checkpoints serve as well, and have the same weights.
    again = mix(api, [one, state], [0.25, 0.75])
    assert again["path"].endswith("/sampler_weights/interpolated")
    for name, values in weights(api, again["path"]).items():
        np.testing.assert_array_equal(values, mixed[name])


def test_a_mixture_is_a_checkpoint_like_others(api, stack, sources):
    (_, one), (_, two) = sources
    path = mix(api, [one, two], [0.5, 0.5], ttl_seconds=3600)["path"]
    run, checkpoint = path.removeprefix("tinker://").split("/", 1)
    (shown,) = api.get(f"/training_runs/{run}/checkpoints").json()["checkpoints"]
    assert (shown["tinker_path"], shown["checkpoint_type"]) == (path, "sampler")
    assert shown["expires_at"] is not None
    with stack.api(key=stack.other_key) as other:
        assert other.post("/weights_info", json={"tinker_path": path}).status_code == 404
    # It goes on being one when its sources are gone, and after a restart.
    spare = mix(api, [path, one], [1.0, 0.0])["path"]
    assert api.delete(f"/training_runs/{run}/checkpoints/{checkpoint}").status_code == 204
    stack.kill("gateway")
    stack.start("gateway")
    assert weights(api, spare)
    assert api.post("/weights_info", json={"tinker_path": path}).status_code == 404


def test_repetitions_of_a_request_are_one(api, sources):
    (_, one), (_, two) = sources
    body = {"source_paths": [one, two], "coefficients": [0.5, 0.5]}
    keyed = {"x-idempotency-key": "stainless-python-retry-2"}
    first = api.post(ROUTE, json=body, headers=keyed).json()
    told = wait(api, first["request_id"])
    assert api.post(ROUTE, json=body, headers=keyed).json() == first  # its run has ended by now
    assert wait(api, first["request_id"]) == told
    changed = api.post(ROUTE, json={**body, "coefficients": [0.4, 0.6]}, headers=keyed)
    assert (changed.status_code, changed.json()["code"]) == (422, "operation_conflict")
    assert api.post(ROUTE, json=body).json() != first


def test_what_cannot_be_mixed_is_refused_at_once(api, stack, sources):
    (_, one), (_, two) = sources
    _, wider = saved(api, seed=3, rank=4)

    def refused(paths: list[str], coefficients: list[float], status: int, word: str, client=api) -> None:
        answer = client.post(ROUTE, json={"source_paths": paths, "coefficients": coefficients})
        assert (answer.status_code, answer.headers["x-should-retry"]) == (status, "false"), answer.text
        assert word in answer.json()["detail"], answer.text
        assert answer.elapsed.total_seconds() < 1

    refused([one, wider], [0.5, 0.5], 422, "source_paths[1]")
    refused([one, two], [0.5, 0.6], 422, "coefficients")
    refused([one, two], [0.5], 422, "coefficients")
    refused([one], [1.0], 422, "source_paths")
    refused([one, f"{two}-not"], [0.5, 0.5], 404, f"{two}-not")
    refused([one, "mint://elsewhere"], [0.5, 0.5], 422, "source_paths[1]")
    with stack.api(key=stack.other_key) as other:
        refused([one, two], [0.5, 0.5], 404, one, other)
