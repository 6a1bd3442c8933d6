"""The protobuf messages of the Tinker API (`tinker_public`, proto3), made without generated code.

They have their own pool and package name: the wire has no names, and a process may also load the official
SDK's classes. Each line of the schema is ``[repeated|optional] type name = number``; fields of one oneof
carry its name behind ``@``.
"""

import re
from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from mint_common.errors import InvalidField

PACKAGE = "mint.tinker"

_ENUMS = {
    "StopReason": ("STOP_REASON_STOP", "STOP_REASON_LENGTH"),
    "DType": ("DTYPE_UNSPECIFIED", "DTYPE_FLOAT32", "DTYPE_INT64", "DTYPE_INT32", "DTYPE_BFLOAT16"),
}
FLOAT32, INT64 = 1, 2
"""Values of ``DType`` that this server writes."""

_MESSAGES = {
    "ForwardBackwardRequest": """
        string model_id = 1; int32 seq_id = 2; repeated Datum data = 3; string loss_fn = 4;
        map<string, double> loss_fn_config = 5; bool forward_only = 6;
        map<string, LossConfigValue> loss_fn_config_v2 = 7""",
    "LossConfigValue": "double number = 1 @value; string text = 2 @value",
    "Datum": """
        repeated Chunk model_input = 1; map<string, Tensor> loss_fn_inputs = 2;
        repeated ProvenanceSpan model_input_spans = 3; repeated ProvenanceSpan loss_fn_input_spans = 4""",
    "ProvenanceSpan": """
        TokenSpan prompt_tokens = 1 @span; TokenSpan sampled_tokens = 2 @span""",
    "TokenSpan": "string sequence_id = 1; int64 offset = 2; int64 length = 3",
    "Chunk": """
        EncodedTextChunk encoded_text = 1 @chunk; ImageChunk image = 2 @chunk; DmelChunk dmel = 3 @chunk""",
    "EncodedTextChunk": "bytes tokens = 1",
    "ImageChunk": """
        bytes data = 1; string format = 2; optional int32 expected_tokens = 3;
        optional ImageDimensions override_dimensions = 4""",
    "ImageDimensions": "uint32 width = 1; uint32 height = 2",
    "DmelChunk": "bytes dmel = 1",
    "Tensor": """
        bytes dense = 1 @encoding; SparseCsr sparse_csr = 2 @encoding; DType dtype = 3;
        repeated int64 shape = 4""",
    "SparseCsr": "bytes values = 1; bytes crow_indices = 2; bytes col_indices = 3",
    "ForwardBackwardOutput": """
        string loss_fn_output_type = 1; repeated ArrayRecord loss_fn_outputs = 2;
        map<string, double> metrics = 3""",
    "ArrayRecord": "string type_tag = 1; map<string, BatchedTensor> fields = 2; int64 num_datums = 3",
    "BatchedTensor": "bytes data = 1; bytes offsets = 2; DType dtype = 3; repeated int64 trailing_shape = 4",
    "SampleResponse": """
        repeated SampledSequence sequences = 1; optional bytes prompt_logprobs = 2;
        optional TopkLogprobs topk_prompt_logprobs = 3; int32 prompt_cache_hit_tokens = 4;
        optional Tensor target_prompt_logprobs = 5; optional PromptAltTokens prompt_alt_tokens = 6""",
    "SampledSequence": """
        StopReason stop_reason = 1; bytes tokens = 2; optional bytes logprobs = 3;
        optional TopkLogprobs topk_sampled_logprobs = 4""",
    "TopkLogprobs": "bytes token_ids = 1; bytes logprobs = 2; uint32 k = 3; uint32 length = 4",
    "PromptAltTokens": "Tensor tokens = 1; Tensor logprobs = 2",
}

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "double": _Field.TYPE_DOUBLE,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
}
_LINE = re.compile(
    r"(?:(?P<label>repeated|optional) )?(?P<type>map<string, \w+>|\w+) (?P<name>\w+) = (?P<number>\d+)"
    r"(?: @(?P<oneof>\w+))?"
)


def _build() -> Mapping[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="mint/tinker.proto", package=PACKAGE, syntax="proto3")
    for name, members in _ENUMS.items():
        values = [
            descriptor_pb2.EnumValueDescriptorProto(name=member, number=number)
            for number, member in enumerate(members)
        ]
        file.enum_type.add(name=name, value=values)
    for name, lines in _MESSAGES.items():
        _add_fields(file.message_type.add(name=name), lines)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    descriptors = {name: pool.FindMessageTypeByName(f"{PACKAGE}.{name}") for name in _MESSAGES}
    return {name: message_factory.GetMessageClass(found) for name, found in descriptors.items()}


def _add_fields(message: descriptor_pb2.DescriptorProto, lines: str) -> None:
    optional: list[descriptor_pb2.FieldDescriptorProto] = []
    oneofs: dict[str, int] = {}
    for line in lines.split(";"):
        match = _LINE.fullmatch(" ".join(line.split()))
        assert match is not None, line
        field = message.field.add(name=match["name"], number=int(match["number"]))
        field.label = _Field.LABEL_OPTIONAL
        if match["label"] == "repeated" or match["type"].startswith("map<"):
            field.label = _Field.LABEL_REPEATED
        _set_type(message, field, match["type"])
        if match["oneof"]:
            if match["oneof"] not in oneofs:
                oneofs[match["oneof"]] = len(message.oneof_decl)
                message.oneof_decl.add(name=match["oneof"])
            field.oneof_index = oneofs[match["oneof"]]
        if match["label"] == "optional":
            optional.append(field)
    for field in optional:  # proto3 marks presence by a oneof of one field, after the real ones
        field.proto3_optional = True
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{field.name}")


def _set_type(
    message: descriptor_pb2.DescriptorProto, field: descriptor_pb2.FieldDescriptorProto, kind: str
) -> None:
    if kind.startswith("map<"):
        entry = message.nested_type.add(name="".join(p.title() for p in field.name.split("_")) + "Entry")
        entry.options.map_entry = True
        key = entry.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL)
        _set_type(entry, key, "string")
        value = entry.field.add(name="value", number=2, label=_Field.LABEL_OPTIONAL)
        _set_type(entry, value, kind.removeprefix("map<string, ").removesuffix(">"))
        field.type = _Field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{message.name}.{entry.name}"
    elif kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = _Field.TYPE_ENUM if kind in _ENUMS else _Field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{kind}"


_CLASSES = _build()


def new_message(name: str) -> Any:  # its class is made at run time
    """Return an empty message of that name."""
    return _CLASSES[name]()


def read_message(name: str, body: bytes) -> Any:  # as above
    """Return the decoded message. Raises InvalidField for other bytes."""
    try:
        return _CLASSES[name].FromString(body)
    except DecodeError as error:
        raise InvalidField(field="body", problem=f"is not a protobuf {name}") from error
