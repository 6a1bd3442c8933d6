"""Passes from the wire: the official SDK's own encoder is the oracle."""

import json
from contextlib import suppress

import numpy as np
import pytest
import tinker
from hypothesis import given, settings
from hypothesis import strategies as st
from tinker.proto.request_conv import forward_backward_request_to_proto
from tinker.proto.response_conv import deserialize_forward_backward_output
from tinker.types import ForwardBackwardInput, ForwardBackwardRequest, TensorData

from mint_common.errors import InvalidField
from mint_common.ids import PolicyId
from mint_common.training import Array, Passed
from services.gateway.core.tinker.ids import OperationId
from services.gateway.core.tinker.outputs import write_result
from services.gateway.core.tinker.passes import read_json_pass, read_protobuf_pass

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def datums(draw: st.DrawFn) -> tinker.Datum:
    length = draw(st.integers(1, 5))
    shape = (length,) if draw(st.booleans()) else (length, draw(st.integers(1, 3)))
    count = int(np.prod(shape))
    targets = np.array(draw(st.lists(st.integers(0, 2**40), min_size=count, max_size=count)), np.int64)
    weights = np.array(draw(st.lists(finite, min_size=count, max_size=count)), np.float32)
    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(
            draw(st.lists(st.integers(0, 2**31 - 1), min_size=length, max_size=length))
        ),
        loss_fn_inputs={
            "target_tokens": TensorData(data=targets.ravel(), dtype="int64", shape=list(shape)),
            "weights": TensorData(data=weights.ravel(), dtype="float32", shape=list(shape)),
        },
    )


def _request(data: list[tinker.Datum], **changes: object) -> ForwardBackwardRequest:
    wish = {"data": data, "loss_fn": "ppo", "loss_fn_config": {"clip_low_threshold": 0.5}, **changes}
    return ForwardBackwardRequest(forward_backward_input=ForwardBackwardInput(**wish), model_id="m", seq_id=7)


def _check(operation, request: ForwardBackwardRequest) -> None:
    sent = request.forward_backward_input
    assert (operation.loss, operation.config) == (sent.loss_fn, sent.loss_fn_config)
    assert len(operation.data) == len(sent.data)
    for ours, theirs in zip(operation.data, sent.data, strict=True):
        assert np.frombuffer(ours.tokens, np.int32).tolist() == theirs.model_input.to_ints()
        for name, tensor in theirs.loss_fn_inputs.items():
            array = ours.inputs[name]
            assert (array.dtype, list(array.shape)) == (tensor.dtype, list(tensor.shape))
            assert array.data == np.asarray(tensor.to_numpy()).tobytes()


@given(data=st.lists(datums(), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_the_sdks_protobuf_and_json_read_as_what_was_sent(data):
    request = _request(data)
    placed = read_protobuf_pass(forward_backward_request_to_proto(request).SerializeToString())
    assert (placed.model_id, placed.seq, placed.operation.backward) == ("m", 7, True)
    _check(placed.operation, request)
    sent = {"data": [json_datum(datum) for datum in data], "loss_fn": "ppo"}
    sent["loss_fn_config"] = {"clip_low_threshold": 0.5}
    body = json.dumps({"model_id": "m", "seq_id": 7, "forward_input": sent, "type": "forward"}).encode()
    placed = read_json_pass(body, backward=False)
    assert not placed.operation.backward
    _check(placed.operation, request)


def json_datum(datum: tinker.Datum) -> dict[str, object]:
    """Return a datum as SDKs before 0.25 sent it."""
    inputs = {
        name: {"data": np.asarray(tensor.data).tolist(), "dtype": tensor.dtype, "shape": tensor.shape}
        for name, tensor in datum.loss_fn_inputs.items()
    }
    chunks = [{"type": "encoded_text", "tokens": datum.model_input.to_ints()}]
    return {"model_input": {"chunks": chunks}, "loss_fn_inputs": inputs}


def test_sparse_targets_are_written_out():
    sparse = TensorData(
        data=np.array([5, 6, 7], np.int64),
        dtype="int64",
        shape=[2, 3],
        sparse_crow_indices=[0, 1, 3],
        sparse_col_indices=[2, 0, 1],
    )
    datum = tinker.Datum(
        model_input=tinker.ModelInput.from_ints([1, 2]), loss_fn_inputs={"target_tokens": sparse}
    )
    request = _request([datum], loss_fn="cross_entropy", loss_fn_config=None)
    array = (
        read_protobuf_pass(forward_backward_request_to_proto(request).SerializeToString())
        .operation.data[0]
        .inputs["target_tokens"]
    )
    assert np.frombuffer(array.data, np.int64).reshape(array.shape).tolist() == [[0, 0, 5], [6, 7, 0]]


def _message(**tensor: object) -> bytes:
    message = forward_backward_request_to_proto(
        _request([tinker.Datum(model_input=tinker.ModelInput.from_ints([1]), loss_fn_inputs={})])
    )
    target = message.data[0].loss_fn_inputs["target_tokens"]
    for name, value in tensor.items():
        if name == "shape":
            target.shape.extend(value)
        elif name in {"values", "crow_indices", "col_indices"}:
            setattr(target.sparse_csr, name, value)
        else:
            setattr(target, name, value)
    return message.SerializeToString()


INT = {"dtype": 2}


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (_message(dense=b"12345678"), "has dtype 0"),
        (_message(dense=b"1234", **INT), "no whole number of 8-byte"),
        (_message(values=b"", shape=[1 << 20, 1 << 20], **INT), "elements at most"),
        (_message(values=b"", shape=[1, -1], **INT), "elements at most"),
        (_message(values=bytes(8), shape=[1, 1], **INT), "do not fit its shape"),
        (
            _message(
                values=bytes(8),
                crow_indices=np.array([0, 1]).tobytes(),
                col_indices=np.array([9]).tobytes(),
                shape=[1, 1],
                **INT,
            ),
            "do not fit its shape",
        ),
    ],
)
def test_a_tensor_that_is_none_names_its_field(body, problem):
    with pytest.raises(InvalidField, match=rf"data\[0\]\.loss_fn_inputs\.target_tokens.*{problem}"):
        read_protobuf_pass(body)


def test_bfloat16_and_int32_are_widened():
    message = forward_backward_request_to_proto(
        _request([tinker.Datum(model_input=tinker.ModelInput.from_ints([1]), loss_fn_inputs={})])
    )
    inputs = message.data[0].loss_fn_inputs
    inputs["weights"].dtype, inputs["weights"].dense = 4, np.array([0x3FC0], np.uint16).tobytes()
    inputs["target_tokens"].dtype, inputs["target_tokens"].dense = 3, np.array([9], np.int32).tobytes()
    read = read_protobuf_pass(message.SerializeToString()).operation.data[0].inputs
    assert read["weights"] == Array(dtype="float32", shape=(1,), data=np.float32(1.5).tobytes())
    assert read["target_tokens"] == Array(dtype="int64", shape=(1,), data=np.int64(9).tobytes())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"loss_fn": "stable_reinforce"}, "loss_fn.*must be one of cross_entropy"),
        ({"loss_fn_config": {"mode": "x"}}, "loss_fn_config.mode.*must be a number"),
        ({"data": []}, "data.*is empty"),
    ],
)
def test_a_pass_that_cannot_be_is_refused(changes, problem):
    datum = tinker.Datum(model_input=tinker.ModelInput.from_ints([1]), loss_fn_inputs={})
    message = forward_backward_request_to_proto(_request(**{"data": [datum], **changes}))
    with pytest.raises(InvalidField, match=problem):
        read_protobuf_pass(message.SerializeToString())


def test_images_are_refused():
    image = tinker.types.ImageChunk(data=b"png", format="png", expected_tokens=1)
    datum = tinker.Datum(model_input=tinker.ModelInput(chunks=[image]), loss_fn_inputs={})
    with pytest.raises(InvalidField, match="token ids only"):
        read_protobuf_pass(forward_backward_request_to_proto(_request([datum])).SerializeToString())


@given(body=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_garbage_is_never_more_than_a_user_error(body):
    for read in (read_protobuf_pass, lambda it: read_json_pass(it, backward=True)):
        with suppress(InvalidField):
            read(body)


@given(
    place=st.integers(0, 10_000), value=st.integers(0, 255), data=st.lists(datums(), min_size=1, max_size=2)
)
@settings(max_examples=200, deadline=None)
def test_a_damaged_message_is_read_or_refused(place, value, data):
    body = bytearray(forward_backward_request_to_proto(_request(data)).SerializeToString())
    body[place % len(body)] = value
    with suppress(InvalidField):
        read_protobuf_pass(bytes(body))


@given(
    values=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=10,
    ),
    place=st.sampled_from(
        ["model_id", "seq_id", "data", "datum", "chunks", "tokens", "tensor", "values", "shape"]
    ),
)
@settings(max_examples=200, deadline=None)
def test_any_json_in_any_place_is_read_or_refused(values, place):
    tensor = {"data": [1], "dtype": "int64", "shape": [1]}
    tensor = {"tensor": values}.get(place, {**tensor, **{"values": {"data": values}}.get(place, {})})
    if place == "shape":
        tensor["shape"] = values
    chunk = {"type": "encoded_text", "tokens": values if place == "tokens" else [1]}
    datum = {
        "model_input": {"chunks": values if place == "chunks" else [chunk]},
        "loss_fn_inputs": {"target_tokens": tensor},
    }
    body = {
        "model_id": values if place == "model_id" else "m",
        "seq_id": values if place == "seq_id" else 1,
        "forward_backward_input": {
            "data": values if place == "data" else [values if place == "datum" else datum],
            "loss_fn": "cross_entropy",
        },
    }
    with suppress(InvalidField):
        read_json_pass(json.dumps(body).encode("utf-8", "surrogatepass"), backward=True)


PASS = OperationId(kind="pass", policy_id=PolicyId("pol_" + "a" * 26), seq=1)


@given(
    st.lists(
        st.lists(finite, min_size=1, max_size=4)
        | st.lists(st.tuples(finite, finite), min_size=1, max_size=3),
        max_size=6,
    )
)
@settings(max_examples=60, deadline=None)
def test_outputs_read_back_with_the_sdk(rows):
    arrays = [np.array(row, np.float32) for row in rows]
    logprobs = tuple(Array(dtype="float32", shape=a.shape, data=a.tobytes()) for a in arrays)
    result = Passed(logprobs=logprobs, metrics={"loss:sum": 1.5})
    body = write_result(result, PASS, model_id="m", as_protobuf=True).body
    read = deserialize_forward_backward_output(body)
    assert read.metrics == {"loss:sum": 1.5}
    outputs = [output["logprobs"] for output in read.loss_fn_outputs]
    plain = json.loads(write_result(result, PASS, model_id="m", as_protobuf=False).body)
    assert len(outputs) == len(plain["loss_fn_outputs"]) == len(arrays)
    for array, output, text in zip(arrays, outputs, plain["loss_fn_outputs"], strict=True):
        assert np.array_equal(output.to_numpy().reshape(array.shape), array)
        assert list(output.shape) == list(array.shape) == text["logprobs"]["shape"]
        assert np.array_equal(np.array(text["logprobs"]["data"], np.float32), array.ravel())
