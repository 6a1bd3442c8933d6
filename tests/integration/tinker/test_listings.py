"""What a tenant has, as the official client lists it, and what may be done with a checkpoint."""

import time

import pytest
import tinker
from tinker import types

from tests.integration.tinker.test_training import MODEL, datums, step

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def run(service):
    client = service.create_lora_training_client(base_model=MODEL, rank=2, user_metadata={"team": "a"})
    step(client, datums())
    return client


def test_runs_and_checkpoints_are_listed(run, rest):
    paths = [
        run.save_state("a").result().path,
        run.save_weights_for_sampler("b", ttl_seconds=4000).result().path,
    ]
    model_id = paths[0].split("/")[2]
    listed = rest.list_training_runs(limit=1).result()
    assert listed.cursor.total_count >= 1
    assert listed.training_runs[0].training_run_id == model_id
    shown = rest.get_training_run(model_id).result()
    assert (shown.lora_rank, shown.base_model, shown.user_metadata) == (2, MODEL, {"team": "a"})
    assert (shown.last_checkpoint.tinker_path, shown.last_sampler_checkpoint.tinker_path) == tuple(paths)
    found = rest.list_checkpoints(model_id).result().checkpoints
    assert [(each.tinker_path, each.checkpoint_type) for each in found] == [
        (paths[1], "sampler"),
        (paths[0], "training"),
    ]
    assert found[0].expires_at is not None
    assert found[1].expires_at is None
    everything = rest.list_user_checkpoints(limit=1, offset=1).result()
    assert everything.checkpoints[0].tinker_path == paths[0]
    assert everything.cursor.total_count >= 2


def test_a_checkpoint_is_deleted_published_and_expires(run, rest, service, other_service):
    paths = {name: run.save_state(name).result().path for name in ("gone", "shown", "brief")}
    rest.delete_checkpoint_from_tinker_path(paths["gone"]).result()
    with pytest.raises(tinker.NotFoundError):
        rest.delete_checkpoint_from_tinker_path(paths["gone"]).result()
    with pytest.raises(tinker.NotFoundError):
        service.create_training_client_from_state(paths["gone"]).result()
    with pytest.raises(tinker.NotFoundError):
        other_service.create_training_client_from_state(paths["shown"]).result()
    rest.publish_checkpoint_from_tinker_path(paths["shown"]).result()
    assert other_service.create_training_client_from_state(paths["shown"]).result() is not None
    rest.unpublish_checkpoint_from_tinker_path(paths["shown"]).result()
    with pytest.raises(tinker.NotFoundError):
        other_service.create_training_client_from_state(paths["shown"]).result()
    rest.set_checkpoint_ttl_from_tinker_path(paths["brief"], 1).result()
    time.sleep(1.1)
    with pytest.raises(tinker.NotFoundError):
        service.create_training_client_from_state(paths["brief"]).result()


def test_a_published_sampler_is_what_an_alias_points_at(run, rest, stack):
    path = run.save_weights_for_sampler("live").result().path
    rest.publish_checkpoint_from_tinker_path(path).result()
    policy = path.split("/")[2].replace(":", ".")
    with stack.api() as api:
        alias = api.get(f"{stack.url}/mint/v1/policies/{policy}/aliases/published").json()
    assert alias["history"][-1]["reason"] == f"published {path}"


def test_sessions_are_listed_and_searched(stack, rest):
    with stack.api() as api:
        wish = {"tags": [], "sdk_version": "x", "display_name": "Search me", "user_metadata": {"k": "v"}}
        names = [api.post("/create_session", json=wish).json()["session_id"] for _ in range(3)]
    assert rest.list_sessions(limit=2).result().sessions == names[:0:-1]
    shown = rest.get_session(names[0]).result()
    assert (shown.display_name, shown.user_metadata, shown.training_run_ids) == ("Search me", {"k": "v"}, [])
    request = types.SessionSearchRequest(display_name="me", user_metadata={"k": "v"}, limit=2)
    page = rest.search_sessions(request).result()
    assert [each.session_id for each in page.sessions] == names[:0:-1]
    assert page.sessions[0].status.type == "active"
    rest_of = rest.search_sessions(request.model_copy(update={"cursor": page.next_cursor})).result()
    assert [each.session_id for each in rest_of.sessions] == names[:1]


def test_nothing_of_a_tenant_is_seen_by_another(run, stack):
    path = run.save_state("mine").result().path
    model_id = path.split("/")[2]
    session_id = model_id.split(":")[0]
    with stack.api(key=stack.other_key) as api:
        for route in ("/training_runs", "/checkpoints", "/sessions", "/mint/v1/policies"):
            listed = api.get(route if "mint" not in route else f"{stack.url}{route}").raise_for_status().text
            assert session_id not in listed
        for method, route, body in (
            ("GET", f"/training_runs/{model_id}", None),
            ("GET", f"/training_runs/{model_id}/checkpoints", None),
            ("DELETE", f"/training_runs/{model_id}/checkpoints/weights/mine", None),
            ("POST", f"/training_runs/{model_id}/checkpoints/weights/mine/publish", None),
            ("PUT", f"/training_runs/{model_id}/checkpoints/weights/mine/ttl", {"ttl_seconds": 1}),
            ("GET", f"/sessions/{session_id}", None),
            ("POST", "/get_info", {"model_id": model_id}),
            ("POST", "/optim_step", {"model_id": model_id, "seq_id": 5, "adam_params": {}}),
            ("POST", "/save_weights", {"model_id": model_id, "seq_id": 5, "path": "x"}),
            ("POST", "/save_weights_for_sampler", {"model_id": model_id, "seq_id": 5, "path": "x"}),
            ("POST", "/unload_model", {"model_id": model_id}),
            ("POST", "/weights_info", {"tinker_path": path}),
            ("POST", "/copy_weights", {"source_path": path}),
            (
                "POST",
                "/create_model",
                {
                    "session_id": session_id,
                    "model_seq_id": 5,
                    "base_model": MODEL,
                    "lora_config": {"rank": 1},
                },
            ),
        ):
            answer = api.request(method, route, json=body)
            assert answer.status_code == 404, (route, answer.text)
    with stack.api() as mine, stack.api(key=stack.other_key) as api:
        policy = mine.get(f"{stack.url}/mint/v1/policies/{model_id.replace(':', '.')}").json()["policy_id"]
        answer = api.post("/retrieve_future", json={"request_id": f"op:pass:1:{policy}"})
        assert answer.status_code == 410
