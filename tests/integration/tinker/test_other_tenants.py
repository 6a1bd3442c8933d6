"""Every route of the Tinker API that names something: to another tenant's admin it is not there."""

import pytest

from tests.integration.tinker.raw import RawRun, open_run, wait
from tests.integration.tinker.test_refusals import datum
from tests.security.route_scopes import TINKER

pytestmark = pytest.mark.integration

NAMES_NOTHING = {
    "GET /healthz",
    "POST /client/config",
    "POST /client/dynamic_config",
    "GET /get_server_capabilities",
    "POST /create_session",
    "POST /telemetry",
    "GET /checkpoints",
    "GET /training_runs",
    "GET /sessions",
    "POST /sessions/search",
    "POST /save_weights_external",
    "POST /create_custom_loss",
    "GET /sessions/{session_id}/trace_export",
    "GET /billing/usage/events",
    "GET /billing/usage/checkpoints/current",
    "GET /audit",
    "POST /auth/token",
    "GET /auth/apikey/me",
    "DELETE /auth/apikey/me",
}
"""They list the tenant's own, or serve nothing."""


@pytest.fixture(scope="module")
def run(stack) -> RawRun:
    with stack.api() as api:
        run = open_run(api)
        wait(api, run.submit_pass([datum()]))
        wait(api, run.submit("save_weights", path="mine"))
        wait(api, run.submit("save_weights_for_sampler", path="mine"))
        opening = {"session_id": run.session_id, "sampling_session_seq_id": 0}
        opening["model_path"] = f"tinker://{run.model_id}/sampler_weights/mine"
        answer = api.post("/create_sampling_session", json=opening).raise_for_status()
        run.sampling_session_id = answer.json()["sampling_session_id"]
        run.future = run.submit_pass([datum()])
        wait(api, run.future)
        yield run


def bodies(run: RawRun) -> dict[str, dict[str, object]]:
    """Return a body for each route that takes one and names what is the run's."""
    state, files = (f"tinker://{run.model_id}/{kind}/mine" for kind in ("weights", "sampler_weights"))
    of_run = {"model_id": run.model_id, "seq_id": 90}
    targets = {"data": [6, 7, 8], "dtype": "int64", "shape": [3]}
    prompt = {"chunks": [{"type": "encoded_text", "tokens": [5, 6, 7]}]}
    data = [{"model_input": prompt, "loss_fn_inputs": {"target_tokens": targets}}]
    passing = {"data": data, "loss_fn": "cross_entropy"}
    lora = {"rank": 2, "seed": 0}
    return {
        "POST /session_heartbeat": {"session_id": run.session_id},
        "POST /sessions/{session_id}/finish": {"reason": {"type": "success"}},
        "PUT /sessions/{session_id}/project": {"project_id": "theirs"},
        "POST /create_model": {
            "session_id": run.session_id,
            "model_seq_id": 0,
            "base_model": "mint/tiny",
            "lora_config": lora,
        },
        "POST /get_info": {"model_id": run.model_id},
        "POST /unload_model": {"model_id": run.model_id},
        "POST /forward_backward": {**of_run, "forward_backward_input": passing},
        "POST /forward": {**of_run, "forward_input": passing},
        "POST /optim_step": {**of_run, "adam_params": {"learning_rate": 0.1}},
        "POST /save_weights": {**of_run, "path": "theirs"},
        "POST /save_weights_for_sampler": {**of_run, "path": "theirs"},
        "POST /load_weights": {**of_run, "path": state, "optimizer": False},
        "POST /weights_info": {"tinker_path": state},
        "POST /copy_weights": {"source_path": state},
        "POST /mint/forward_backward_reverse_kl": {**of_run, "reference_model_path": state, "data": []},
        "POST /mint/checkpoints/interpolate": {"source_paths": [files, files], "coefficients": [0.5, 0.5]},
        "PUT /training_runs/{model_id}/checkpoints/{checkpoint_id}/ttl": {"ttl_seconds": 1},
        "POST /create_sampling_session": {
            "session_id": run.session_id,
            "sampling_session_seq_id": 1,
            "base_model": "mint/tiny",
        },
        "POST /asample": {
            "sampling_session_id": run.sampling_session_id,
            "seq_id": 0,
            "prompt": prompt,
            "sampling_params": {"max_tokens": 1},
        },
        "POST /retrieve_future": {"request_id": run.future},
    }


ROUTES = [route.replace("/api/v1", "") for route in TINKER]


@pytest.mark.parametrize("route", [route for route in ROUTES if route not in NAMES_NOTHING])
def test_what_is_another_tenant_s_is_not_there(stack, run, route):
    method, path = route.split(" ")
    names = {"model_id": run.model_id, "session_id": run.session_id}
    names |= {"sampling_session_id": run.sampling_session_id}
    body = bodies(run).get(route)
    for checkpoint in ("weights/mine", "sampler_weights/mine"):
        target = path.format_map({**names, "checkpoint_id": checkpoint})
        with stack.api(key=stack.other_key) as other:
            answer = other.request(method, target, json=body)
        assert answer.status_code in {404, 410}, (route, answer.text)


def test_all_of_it_is_still_there(stack, run):
    with stack.api() as api:
        found = api.get(f"/training_runs/{run.model_id}/checkpoints").json()["checkpoints"]
        assert len(found) == 2
        assert all(each["expires_at"] is None and not each["public"] for each in found)
        assert api.get(f"/sessions/{run.session_id}").status_code == 200
        wait(api, run.submit("optim_step", adam_params={"learning_rate": 0.0}))
