"""Sampler checkpoints as files, copies of checkpoints, and what a collection spares."""

import io
import tarfile

import httpx
import numpy as np
import pytest
from safetensors.numpy import load

from tests.integration.tinker.test_training import MODEL, datums, step

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def saved(service):
    client = service.create_lora_training_client(base_model=MODEL, rank=2)
    step(client, datums())
    return client.save_state("state").result().path, client.save_weights_for_sampler("files").result().path


def test_a_sampler_checkpoint_is_downloaded(saved, stack):
    model_id = saved[1].split("/")[2]
    route = f"/training_runs/{model_id}/checkpoints"
    with stack.api() as api:
        urls = api.get(f"{route}/sampler_weights/files/external_weights_urls").json()["urls"]
        led = api.get(f"{route}/sampler_weights/files/archive")
        assert (led.status_code, "expires" in led.headers) == (302, True)
        assert api.get(f"{route}/weights/state/archive").status_code == 422
    files = {name: httpx.get(url).raise_for_status().content for name, url in urls.items()}
    assert sorted(files) == ["adapter_config.json", "adapter_model.safetensors"]
    assert any(np.abs(tensor).max() > 0 for tensor in load(files["adapter_model.safetensors"]).values())
    with tarfile.open(fileobj=io.BytesIO(httpx.get(led.headers["location"]).content)) as tar:
        assert {member.name: tar.extractfile(member).read() for member in tar} == files
    url = urls["adapter_config.json"]
    for forged in (url.replace("downloads/", "downloads/A"), f"{url[:-4]}txt", url.replace(".", "", 1)):
        if forged.startswith(stack.url):
            assert httpx.get(forged).status_code == 404
    with stack.api(key=stack.other_key) as other:
        assert other.get(f"{route}/sampler_weights/files/archive").status_code == 404


def test_copies_are_the_tenants_own(saved, stack, rest):
    with stack.api() as api, stack.api(key=stack.other_key) as other:
        for path in saved:
            assert other.post("/copy_weights", json={"source_path": path}).status_code == 404
            rest.publish_checkpoint_from_tinker_path(path).result()
        state, files = (
            other.post("/copy_weights", json={"source_path": path}).raise_for_status().json()["tinker_path"]
            for path in saved
        )
        for path in saved:
            rest.delete_checkpoint_from_tinker_path(path).result()
        assert api.post("/weights_info", json={"tinker_path": state}).status_code == 404
        assert other.post("/weights_info", json={"tinker_path": state}).json()["lora_rank"] == 2
        session_id = other.post("/create_session", json={"tags": []}).json()["session_id"]
        wish = {"session_id": session_id, "sampling_session_seq_id": 0, "model_path": files}
        assert other.post("/create_sampling_session", json=wish).status_code == 200
        assert (
            other.get("/training_runs").json()["training_runs"][0]["last_sampler_checkpoint"]["tinker_path"]
            == files
        )


def test_a_repeated_copy_is_one_copy(saved, stack):
    with stack.api() as api:
        for path in saved:
            key, runs = {"X-Idempotency-Key": f"again {path}"}, len(_runs(api))
            session_id = api.post("/create_session", json={"tags": []}).json()["session_id"]
            for wish in ({}, {"session_id": session_id, "model_seq_id": 3}):
                body = {"source_path": path, "ttl_seconds": 3600, **wish}
                answers = [api.post("/copy_weights", json=body, headers=key) for _ in range(2)]
                assert [answer.status_code for answer in answers] == [200, 200], answers[1].text
                assert len({answer.json()["tinker_path"] for answer in answers}) == 1
            assert len(_runs(api)) == runs + 2
        other = [api.post("/copy_weights", json={"source_path": saved[0]}).json() for _ in range(2)]
        assert other[0] != other[1], "two wishes"


def _runs(api: httpx.Client) -> list[dict[str, object]]:
    return api.get("/training_runs", params={"limit": 1000}).raise_for_status().json()["training_runs"]


def test_a_collection_spares_named_checkpoints(service, rest, stack):
    client = service.create_lora_training_client(base_model=MODEL, rank=2)
    paths = []
    for name in ("old", "new", "newest"):
        step(client, datums())
        paths.append(client.save_weights_for_sampler(name).result().path)
    policy = f"{stack.url}/mint/v1/policies/{paths[0].split('/')[2].replace(':', '.')}"
    rest.delete_checkpoint_from_tinker_path(paths[0]).result()
    with stack.api() as api:
        assert api.get(policy).json()["retention"] == {"keep_last": 20, "keep_days": 7}
        few = {"retention": {"keep_last": 1, "keep_days": None}}
        assert api.patch(policy, json=few).status_code == 200
        api.post(f"{stack.url}/mint/v1/gc", json={"dry_run": False, "limit": 1000}).raise_for_status()
        states = [each["state"] for each in api.get(f"{policy}/revisions").json()]
    assert states == ["retired", "published", "published"]
