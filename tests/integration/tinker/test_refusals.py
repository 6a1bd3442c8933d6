"""What a user can do wrong: told at once, never as something to try again, and nobody else's trouble."""

import signal
import time

import httpx
import numpy as np
import pytest
import zstandard
from tinker import types

from tests.integration.tinker.conftest import HOLD_SECONDS
from tests.integration.tinker.raw import PROTOBUF, open_run, wait
from tests.integration.tinker.test_training import datums

# Connections that the official client of an earlier test left may be collected during these.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
RETRIED = {408, 409, 429}


@pytest.fixture(scope="module")
def api(stack):
    with stack.api() as client:
        yield client


@pytest.fixture(scope="module")
def run(api):
    return open_run(api)


def refused(answer: httpx.Response, field: str) -> None:
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.status_code not in RETRIED
    assert answer.headers["x-should-retry"] == "false"
    assert field in answer.json()["detail"], answer.text
    assert answer.elapsed.total_seconds() < 1


def datum(tokens=(5, 6, 7), **inputs) -> types.Datum:
    fitting = {"target_tokens": np.array([6, 7, 8], np.int64)}
    return types.Datum(
        model_input=types.ModelInput.from_ints(list(tokens)), loss_fn_inputs={**fitting, **inputs}
    )


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


REWARDED = {"logprobs": floats(0, 0, 0), "advantages": floats(1, 1, 1)}


@pytest.mark.parametrize(
    ("data", "loss", "config", "field"),
    [
        ([], "cross_entropy", None, "data"),
        ([datum(tokens=())], "cross_entropy", None, "data[0].model_input"),
        ([datum(tokens=(5, 6))], "cross_entropy", None, "data[0].loss_fn_inputs.target_tokens"),
        ([datum(), datum(weights=floats(1, 1))], "cross_entropy", None, "data[1].loss_fn_inputs.weights"),
        ([datum(tokens=(5, 6, 2**30))], "cross_entropy", None, "data[0].model_input"),
        ([datum(target_tokens=np.array([5, 6, -1]))], "cross_entropy", None, "target_tokens"),
        ([datum(target_tokens=floats(5, 6, 7))], "cross_entropy", None, "target_tokens"),
        ([datum(weights=floats(1, float("inf"), 1))], "cross_entropy", None, "weights"),
        ([datum(**{**REWARDED, "advantages": floats(1, float("nan"), 1)})], "ppo", None, "advantages"),
        ([datum()], "importance_sampling", None, "is missing"),
        ([datum(**REWARDED, more=floats(1, 1, 1))], "ppo", None, "loss_fn_inputs.more"),
        ([datum()], "no_such_loss", None, "loss_fn"),
        ([datum()], "stable_reinforce", None, "loss_fn"),
        ([datum()], "cross_entropy", {"no_such_key": 1.0}, "loss_fn_config.no_such_key"),
        ([datum(**REWARDED)], "ppo", {"clip_low_threshold": float("nan")}, "clip_low_threshold"),
    ],
)
def test_a_bad_pass_names_its_field(run, data, loss, config, field):
    refused(run.send_pass(data, loss, seq=1, config=config), field)


def test_a_bad_pass_is_told_while_the_trainer_does_not_answer(run, stack):
    stack.processes["trainer"].send(signal.SIGSTOP)
    try:
        refused(run.send_pass([datum()], "no_such_loss", seq=1), "loss_fn")
    finally:
        stack.processes["trainer"].send(signal.SIGCONT)


@pytest.mark.parametrize(
    ("content", "headers", "field"),
    [
        (b"\xff\xfe garbage", PROTOBUF, "body"),
        (b"", PROTOBUF, "loss_fn"),
        (b"{", {}, "body"),
        (b"[]", {}, "body"),
        (b'{"model_id": "m", "seq_id": 1, "forward_backward_input": {"data": "x"}}', {}, "data"),
        (zstandard.compress(bytes(300 << 20)), {**PROTOBUF, "content-encoding": "zstd"}, "bytes at most"),
        (b"no frame", {**PROTOBUF, "content-encoding": "zstd"}, "zstd"),
    ],
)
def test_a_body_that_is_none_is_refused(api, content, headers, field):
    refused(api.post("/forward_backward", content=content, headers=headers), field)


@pytest.mark.parametrize(
    ("route", "change", "field"),
    [
        ("/optim_step", {"adam_params": {"learning_rate": -1.0}}, "learning_rate"),
        ("/optim_step", {"adam_params": {"beta1": 1.0}}, "beta1"),
        ("/optim_step", {"adam_params": {"eps": "x"}}, "eps"),
        ("/optim_step", {"optimizer_params": {"type": "dimuon"}}, "adamw"),
        ("/optim_step", {"seq_id": 0}, "seq_id"),
        ("/optim_step", {"seq_id": 2**40}, "seq_id"),
        ("/save_weights", {"path": "../x"}, "path"),
        ("/save_weights", {"path": "a/b"}, "path"),
        ("/save_weights", {"path": "x", "ttl_seconds": -1}, "ttl_seconds"),
        ("/save_weights_for_sampler", {"path": "x", "sampling_session_seq_id": 1}, "path"),
        ("/save_weights_for_sampler", {"sampling_session_seq_id": -1}, "sampling_session_seq_id"),
        ("/save_weights_for_sampler", {"path": "x", "kind": "other"}, "kind"),
        ("/load_weights", {"path": "/etc/passwd"}, "path"),
        ("/load_weights", {"path": "tinker://x/weights/y"}, "path"),
        ("/get_info", {"model_id": "nobody"}, "training run"),
        ("/get_info", {"model_id": "\x00"}, "training run"),
    ],
)
def test_a_bad_request_names_its_field(run, route, change, field):
    refused(run.post(route, **{"seq_id": 1, **change}), field)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"lora_config": {"rank": 0}}, "lora_config.rank"),
        ({"lora_config": {"rank": 10**6}}, "lora_config.rank"),
        ({"lora_config": {"rank": 2, "seed": -1}}, "lora_config.seed"),
        ({"lora_config": {"rank": 2, "train_attn": False, "train_mlp": False}}, "unembedding"),
        ({"lora_config": None}, "lora_config"),
        ({"base_model": "nobody/none"}, "nobody/none"),
        ({"model_seq_id": -1}, "model_seq_id"),
        ({"session_id": "ses_x"}, "session"),
        ({"optimizer_config": {"type": "dimuon"}}, "optimizer_config"),
        ({"user_metadata": {"k": 20_000 * "x"}}, "user_metadata"),
        ({"lora_config": {"rank": 3}, "model_seq_id": 0}, "exists already"),
    ],
)
def test_a_bad_model_names_its_field(api, run, change, field):
    wish = {
        "session_id": run.session_id,
        "model_seq_id": 1,
        "base_model": "tiny",
        "lora_config": {"rank": 2},
        **change,
    }
    refused(api.post("/create_model", json=wish), field)


def test_lora_config_is_honoured(api, run):
    for seq, (attn, mlp) in enumerate([(True, False), (False, True)], start=10):
        lora = {"rank": 2, "train_attn": attn, "train_mlp": mlp}
        body = {"session_id": run.session_id, "model_seq_id": seq, "base_model": "tiny", "lora_config": lora}
        model_id = wait(api, api.post("/create_model", json=body).json()["request_id"])["model_id"]
        policy = api.get(
            f"{api.base_url.copy_with(path='/mint/v1/policies/')}{model_id.replace(':', '.')}"
        ).json()
        has = {"q_proj" in policy["lora"]["targets"], "down_proj" not in policy["lora"]["targets"]}
        assert has == {attn}


def test_the_same_number_is_the_same_operation(api):
    run = open_run(api)
    data = datums(1)
    first = run.send_pass(data, "cross_entropy", seq=1).json()
    assert run.send_pass(data, "cross_entropy", seq=1).json() == first
    other = run.send_pass(datums(1, seed=9), "cross_entropy", seq=1)
    refused(other, "before with other content")
    wait(api, first["request_id"])
    assert run.send_pass(data, "cross_entropy", seq=1).json() == first


def test_an_operation_after_a_refused_one_works(api):
    run = open_run(api)
    refused(run.send_pass([], "cross_entropy", seq=1), "data")
    began = time.monotonic()
    answer = run.send_pass(datums(1), "cross_entropy", seq=2)
    assert "loss:sum" in wait(api, answer.json()["request_id"])["metrics"]
    assert time.monotonic() - began < HOLD_SECONDS / 2
    failed = run.post("/load_weights", seq_id=3, path=f"tinker://{run.model_id}/weights/none", optimizer=True)
    refused(failed, "No checkpoint")
    saved = wait(api, run.post("/save_weights", seq_id=4, path="x").json()["request_id"])
    assert saved["path"].endswith("/weights/x")
    again = wait(api, run.post("/save_weights", seq_id=5, path="x").json()["request_id"])
    assert again["category"] == "user"
    assert "exists" in again["error"]
    over = wait(api, run.post("/save_weights", seq_id=6, path="x", overwrite=True).json()["request_id"])
    assert over["path"] == saved["path"]


def test_an_unloaded_run_takes_no_more(api):
    run = open_run(api)
    run.submit("/save_weights", path="kept")
    ended = wait(api, run.post("/unload_model").json()["request_id"])
    assert ended == {"type": "unload_model", "model_id": run.model_id}
    assert run.post("/weights_info", tinker_path=f"tinker://{run.model_id}/weights/kept").status_code == 200
    refused(run.post("/optim_step", seq_id=2, adam_params={}), "closed")


def test_others_are_unharmed(api, stack):
    with stack.api(key=stack.other_key) as other:
        theirs, mine = open_run(other), open_run(api)
        before = wait(other, theirs.submit_pass(datums(2)))["metrics"]["loss:sum"]
        for _ in range(20):
            mine.send_pass([datum(tokens=(5, 6, 2**30))], "cross_entropy", seq=1)
            api.post("/forward_backward", content=b"\xff\xfe", headers=PROTOBUF)
        assert wait(other, theirs.submit_pass(datums(2)))["metrics"]["loss:sum"] == before


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("optim_step", {"adam_params": {"learning_rate": "fast"}}),
        ("optim_step", {"adam_params": {"learning_rate": -1.0}}),
        ("save_weights", {"path": "no/path"}),
        ("load_weights", {"path": f"tinker://ses_{'a' * 26}:train:0/weights/none"}),
        ("save_weights_external", {"path": "x"}),
    ],
)
def test_the_next_operation_does_not_wait_for_a_refused_one(api, run, route, body):
    answer = run.post(route, seq_id=next(run.seq), **body)
    assert 400 <= answer.status_code < 500
    began = time.monotonic()
    wait(api, run.submit("optim_step", adam_params={"learning_rate": 0.0}))
    assert time.monotonic() - began < HOLD_SECONDS / 2


def test_a_pass_that_was_refused_holds_nothing_up(api, run):
    refused(run.send_pass([datum(tokens=(5, 6, 2**30))], "cross_entropy", seq=next(run.seq)), "model_input")
    began = time.monotonic()
    wait(api, run.submit_pass([datum()]))
    assert time.monotonic() - began < HOLD_SECONDS / 2


def test_unloading_waits_for_what_was_submitted_alone(api):
    run = open_run(api, seed=4)
    passed = run.submit_pass(datums())
    began = time.monotonic()
    assert wait(api, run.post("unload_model").json()["request_id"])["type"] == "unload_model"
    assert time.monotonic() - began < HOLD_SECONDS / 2
    assert "metrics" in wait(api, passed)


@pytest.mark.parametrize(
    ("method", "route"),
    [
        ("POST", "save_weights_external"),
        ("POST", "create_custom_loss"),
        ("GET", "sessions/ses_x/trace_export"),
        ("GET", "billing/usage/events"),
        ("GET", "billing/usage/checkpoints/current"),
        ("GET", "audit"),
        ("POST", "auth/token"),
        ("GET", "auth/apikey/me"),
    ],
)
def test_what_is_left_out_says_what_serves_instead(api, method, route):
    answer = api.request(method, f"/{route}", json={} if method == "POST" else None)
    refused(answer, "is not served here: ")
    assert (answer.status_code, answer.json()["code"]) == (422, "not_served")
