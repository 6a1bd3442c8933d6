"""Whatever bytes come, no route of the Tinker API answers 5xx, or anything else that clients try again."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tinker.proto import tinker_public_pb2 as proto

from tests.integration.tinker.raw import PROTOBUF, open_run
from tests.integration.tinker.test_refusals import RETRIED

# Connections that the official client of an earlier test left may be collected during these.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]

ROUTES = [
    "client/config",
    "create_session",
    "session_heartbeat",
    "telemetry",
    "sessions/x/finish",
    "sessions/search",
    "create_model",
    "get_info",
    "forward_backward",
    "forward",
    "optim_step",
    "save_weights",
    "save_weights_for_sampler",
    "load_weights",
    "weights_info",
    "copy_weights",
    "unload_model",
    "create_sampling_session",
    "asample",
    "retrieve_future",
]
FIELDS = [
    "session_id",
    "model_id",
    "model_seq_id",
    "seq_id",
    "base_model",
    "path",
    "tinker_path",
    "source_path",
    "lora_config",
    "rank",
    "data",
    "tags",
    "user_metadata",
    "forward_backward_input",
    "adam_params",
    "request_id",
    "prompt",
    "sampling_params",
    "ttl_seconds",
    "kind",
    "limit",
]

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)
slow = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def api(stack):
    with stack.api() as client:
        yield client


@pytest.fixture(scope="module")
def run(api):
    return open_run(api)


def check(answer) -> None:
    assert answer.status_code < 500, answer.text
    assert answer.status_code not in RETRIED, answer.text


@given(route=st.sampled_from(ROUTES), body=st.dictionaries(st.sampled_from(FIELDS), values, max_size=6))
@slow
def test_any_json_is_answered(api, run, route, body):
    known = {"model_id": run.model_id, "session_id": run.session_id, "seq_id": 1}
    for content in (body, {**known, **body}):
        check(api.post(f"/{route}", content=to_json(content)))


@given(body=st.binary(max_size=300), headers=st.sampled_from([{}, PROTOBUF, {"content-encoding": "zstd"}]))
@slow
def test_any_bytes_are_answered(api, body, headers):
    check(api.post("/forward_backward", content=body, headers=headers))


def test_a_query_that_no_database_takes_is_refused(api):
    answer = api.get("/training_runs", params={"project_id": "a\x00"})
    assert (answer.status_code, answer.json()["fields"]["field"]) == (422, "project_id")


tensors = st.builds(
    proto.Tensor,
    dense=st.binary(max_size=40),
    dtype=st.integers(0, 4),
    shape=st.lists(st.integers(-2, 2**40), max_size=3),
) | st.builds(
    proto.Tensor,
    sparse_csr=st.builds(
        proto.SparseCsr,
        values=st.binary(max_size=24),
        crow_indices=st.binary(max_size=32),
        col_indices=st.binary(max_size=24),
    ),
    dtype=st.integers(0, 4),
    shape=st.lists(st.integers(-2, 2**40), max_size=3),
)
chunks = st.builds(proto.Chunk, encoded_text=st.builds(proto.EncodedTextChunk, tokens=st.binary(max_size=24)))
inputs = st.sampled_from(["target_tokens", "weights", "logprobs", "advantages", "x"])


@given(
    data=st.lists(
        st.builds(
            proto.Datum,
            model_input=st.lists(chunks, max_size=2),
            loss_fn_inputs=st.dictionaries(inputs, tensors, max_size=4),
        ),
        max_size=3,
    ),
    loss=st.sampled_from(["cross_entropy", "ppo", "gspo", ""]),
    config=st.dictionaries(st.sampled_from(["clip_low_threshold", "beta", "y"]), st.floats(), max_size=2),
)
@slow
def test_any_protobuf_is_answered(api, run, data, loss, config):
    request = proto.ForwardBackwardRequest(
        model_id=run.model_id, seq_id=1, data=data, loss_fn=loss, loss_fn_config=config
    )
    check(api.post("/forward_backward", content=request.SerializeToString(), headers=PROTOBUF))


def to_json(body: object) -> bytes:
    """Return JSON as careless clients write it: with NaN, and halves of surrogate pairs."""
    import json

    return json.dumps(body).encode()
