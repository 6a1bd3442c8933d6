"""``forward_backward`` and ``forward``: from protobuf or JSON to a `Pass`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import msgspec

from mint_common.errors import InvalidField
from mint_common.json_reading import read_json
from mint_common.training import Datum, LossName, Pass
from services.gateway.core.tinker.ids import check_seq
from services.gateway.core.tinker.schema import read_message
from services.gateway.core.tinker.tensors import JsonTensor, read_json_tensor, read_tensor, read_token_ids

NO_IMAGES = "has a chunk that is not text; this server trains and samples on token ids only"
LOSSES: Mapping[str, LossName] = {loss: loss for loss in get_args(LossName)}
"""Values of ``loss_fn``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedPass:
    """A pass and its number in its training run."""

    model_id: str
    seq: int
    operation: Pass


class JsonChunk(msgspec.Struct, frozen=True):
    """Part of an input; only ``encoded_text`` has tokens."""

    type: str = "encoded_text"
    tokens: list[int] | None = None


class JsonModelInput(msgspec.Struct, frozen=True):
    """An input."""

    chunks: list[JsonChunk]


class JsonDatum(msgspec.Struct, frozen=True):
    """One sequence."""

    model_input: JsonModelInput
    loss_fn_inputs: dict[str, JsonTensor]


class JsonPass(msgspec.Struct, frozen=True):
    """What is computed."""

    data: list[JsonDatum]
    loss_fn: str
    loss_fn_config: dict[str, float | str] | None = None


class JsonPassBody(msgspec.Struct, frozen=True):
    """The JSON body of ``forward_backward`` and ``forward``, used by clients before protobuf."""

    model_id: str
    seq_id: int | None = None
    forward_backward_input: JsonPass | None = None
    forward_input: JsonPass | None = None


def read_protobuf_pass(body: bytes) -> NumberedPass:
    """Return the pass in a protobuf ``ForwardBackwardRequest``. Raises InvalidField."""
    message = read_message("ForwardBackwardRequest", body)
    config: dict[str, float | str] = dict(message.loss_fn_config)
    if message.loss_fn_config_v2:
        config = {name: _config_value(value) for name, value in message.loss_fn_config_v2.items()}
    data = tuple(_datum(datum, f"data[{index}]") for index, datum in enumerate(message.data))
    operation = _pass(data, message.loss_fn, config, backward=not message.forward_only)
    return NumberedPass(model_id=message.model_id, seq=check_seq(message.seq_id), operation=operation)


def read_json_pass(body: bytes, *, backward: bool) -> NumberedPass:
    """Return the pass in a JSON body. Raises InvalidField."""
    read = read_json(body, JsonPassBody)
    wish = read.forward_backward_input if backward else read.forward_input
    if wish is None:
        field = "forward_backward_input" if backward else "forward_input"
        raise InvalidField(field=field, problem="is missing")
    data = tuple(_json_datum(datum, f"data[{index}]") for index, datum in enumerate(wish.data))
    operation = _pass(data, wish.loss_fn, wish.loss_fn_config or {}, backward=backward)
    return NumberedPass(model_id=read.model_id, seq=check_seq(read.seq_id), operation=operation)


def _pass(data: tuple[Datum, ...], loss: str, config: dict[str, float | str], *, backward: bool) -> Pass:
    if loss not in LOSSES:
        raise InvalidField(field="loss_fn", problem=f"must be one of {', '.join(LOSSES)}, got {loss[:100]!r}")
    if not data:
        raise InvalidField(field="data", problem="is empty")
    numbers: dict[str, float] = {}
    for name, value in config.items():
        if isinstance(value, str):
            raise InvalidField(field=f"loss_fn_config.{name[:100]}", problem="must be a number")
        numbers[name] = value
    return Pass(data=data, loss=LOSSES[loss], config=numbers, backward=backward)


def _config_value(value: Any) -> float | str:  # a protobuf LossConfigValue
    return str(value.text) if value.WhichOneof("value") == "text" else float(value.number)


def _datum(datum: Any, where: str) -> Datum:  # a protobuf Datum
    field = f"{where}.model_input"
    for chunk in datum.model_input:
        if chunk.WhichOneof("chunk") != "encoded_text":
            raise InvalidField(field=field, problem=NO_IMAGES)
        if len(chunk.encoded_text.tokens) % 4:
            raise InvalidField(field=field, problem="has tokens that are not int32 values")
    return Datum(
        tokens=b"".join(chunk.encoded_text.tokens for chunk in datum.model_input),
        inputs={
            name: read_tensor(tensor, f"{where}.loss_fn_inputs.{name[:100]}")
            for name, tensor in datum.loss_fn_inputs.items()
        },
    )


def _json_datum(datum: JsonDatum, where: str) -> Datum:
    return Datum(
        tokens=read_json_tokens(datum.model_input, f"{where}.model_input"),
        inputs={
            name: read_json_tensor(tensor, f"{where}.loss_fn_inputs.{name[:100]}")
            for name, tensor in datum.loss_fn_inputs.items()
        },
    )


def read_json_tokens(model_input: JsonModelInput, field: str) -> bytes:
    """Return the int32 token ids of an input. Raises InvalidField."""
    parts = []
    for chunk in model_input.chunks:
        if chunk.type != "encoded_text" or chunk.tokens is None:
            raise InvalidField(field=field, problem=NO_IMAGES)
        parts.append(read_token_ids(chunk.tokens, field))
    return b"".join(parts)
