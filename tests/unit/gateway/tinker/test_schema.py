"""The schema built in code is the official one, field by field and byte by byte."""

import pytest
from tinker.proto import tinker_public_pb2 as official

from mint_common.errors import InvalidField
from services.gateway.core.tinker import schema


def _fields(descriptor):
    return {
        (
            field.name,
            field.number,
            field.type,
            field.is_repeated,
            field.has_presence,
            field.is_packed,
            field.containing_oneof.name if field.containing_oneof else None,
        )
        for field in descriptor.fields
    }


def test_every_message_has_the_official_fields():
    for name in ("ForwardBackwardRequest", "Tensor", "ForwardBackwardOutput", "SampleResponse", "Datum"):
        assert _fields(schema.new_message(name).DESCRIPTOR) == _fields(getattr(official, name).DESCRIPTOR)


def test_official_bytes_read_the_same_and_write_the_same():
    theirs = official.ForwardBackwardRequest(model_id="m", seq_id=3, loss_fn="ppo", forward_only=True)
    theirs.loss_fn_config["beta"] = 0.5
    theirs.loss_fn_config_v2["beta"].number = 0.5
    theirs.loss_fn_config_v2["mode"].text = "x"
    datum = theirs.data.add()
    datum.model_input.add().encoded_text.tokens = b"\x01\x00\x00\x00"
    datum.model_input.add().image.expected_tokens = 0
    datum.loss_fn_inputs["weights"].dense = b"\x00" * 8
    datum.loss_fn_inputs["weights"].shape.extend([2, 1])
    datum.model_input_spans.add().sampled_tokens.sequence_id = "s"
    data = theirs.SerializeToString(deterministic=True)
    ours = schema.read_message("ForwardBackwardRequest", data)
    assert ours.SerializeToString(deterministic=True) == data
    assert ours.loss_fn_config_v2["mode"].WhichOneof("value") == "text"


def test_garbage_is_a_user_error():
    with pytest.raises(InvalidField, match="is not a protobuf"):
        schema.read_message("ForwardBackwardRequest", b"\xff\xff\xff")
