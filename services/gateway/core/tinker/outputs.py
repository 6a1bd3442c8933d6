"""Results of training operations as clients read them: protobuf for passes when they accept it, else JSON."""

import math
from typing import assert_never

import msgspec
import numpy as np

from mint_common.json_types import JsonObject
from mint_common.training import (
    Array,
    Closed,
    Distilled,
    Exported,
    Loaded,
    Opened,
    Passed,
    Result,
    Saved,
    Stepped,
)
from services.gateway.core.tinker.futures import PROTOBUF, FutureDone
from services.gateway.core.tinker.ids import CheckpointPath, OperationId
from services.gateway.core.tinker.mixtures import mixture_answer
from services.gateway.core.tinker.schema import FLOAT32, new_message

REVERSE_KL = "mint_forward_backward_reverse_kl"
OUTPUT_TYPE = "ArrayRecord"


def write_result(result: Result, operation: OperationId, *, model_id: str, as_protobuf: bool) -> FutureDone:
    """Return the answer to a finished operation. `write_export` writes that of an export."""
    if isinstance(result, Passed):
        if as_protobuf:
            return FutureDone(body=_protobuf(result), media_type=PROTOBUF)
        return FutureDone(body=_json(result))
    return FutureDone(body=msgspec.json.encode(_answer(result, operation, model_id)))


def write_export(
    export: Exported, operation: OperationId, *, model_id: str, sampling_session_id: str | None
) -> FutureDone:
    """Return the answer to an export: its path, or the sampling session that was opened on it."""
    answer: JsonObject = {"type": "save_weights_for_sampler"}
    path = str(CheckpointPath(model_id=model_id, kind="sampler", name=operation.detail))
    if sampling_session_id is not None:
        answer["sampling_session_id"] = sampling_session_id
    elif operation.kind == "mix" and export.checkpoint is not None:
        answer = mixture_answer(path, export.checkpoint)
    else:
        answer["path"] = path
    return FutureDone(body=msgspec.json.encode(answer))


def _answer(
    result: Opened | Distilled | Stepped | Saved | Loaded | Exported | Closed,
    operation: OperationId,
    model_id: str,
) -> dict[str, object]:
    match result:
        case Opened() if operation.kind == "create":
            return {"type": "create_model", "model_id": model_id}
        case Opened() | Loaded():
            return {"type": "load_weights", "model_id": model_id, "path": operation.detail}
        case Distilled():
            return {
                "type": REVERSE_KL,
                "outputs": [
                    {"loss": {"data": [loss], "shape": [1], "dtype": "float32"}} for loss in result.losses
                ],
                "metrics": _finite(result.metrics),
            }
        case Stepped():
            return {"type": "optim_step", "metrics": _finite(result.metrics)}
        case Saved():
            path = CheckpointPath(model_id=model_id, kind="training", name=result.checkpoint.name)
            return {"type": "save_weights", "path": str(path)}
        case Closed():
            return {"type": "unload_model", "model_id": model_id}
        case Exported():
            raise AssertionError("an export is answered once the registry has decided")
        case _:
            assert_never(result)


def _protobuf(result: Passed) -> bytes:
    output = new_message("ForwardBackwardOutput")
    output.loss_fn_output_type = OUTPUT_TYPE
    for name, value in result.metrics.items():
        output.metrics[name] = value
    # One record per run of datums with equal targets per position: a record has one trailing shape.
    start = 0
    while start < len(result.logprobs):
        trailing = result.logprobs[start].shape[1:]
        end = start
        while end < len(result.logprobs) and result.logprobs[end].shape[1:] == trailing:
            end += 1
        _add_record(output, result.logprobs[start:end], trailing)
        start = end
    return bytes(output.SerializeToString())


def _add_record(output: object, arrays: tuple[Array, ...], trailing: tuple[int, ...]) -> None:
    record = output.loss_fn_outputs.add()  # type: ignore[attr-defined]  # a message made at run time
    record.type_tag = OUTPUT_TYPE
    record.num_datums = len(arrays)
    field = record.fields["logprobs"]
    field.data = b"".join(array.data for array in arrays)
    offsets = np.cumsum([0, *(len(array.data) for array in arrays)], dtype="<i8")
    field.offsets = offsets.tobytes()
    field.dtype = FLOAT32
    field.trailing_shape.extend(trailing)


def _json(result: Passed) -> bytes:
    outputs = [
        {
            "logprobs": {
                "data": np.frombuffer(array.data, "<f4").tolist(),
                "dtype": "float32",
                "shape": list(array.shape),
            }
        }
        for array in result.logprobs
    ]
    answer = {
        "loss_fn_output_type": OUTPUT_TYPE,
        "loss_fn_outputs": outputs,
        "metrics": _finite(result.metrics),
    }
    return msgspec.json.encode(answer)


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    """Leave out values that JSON has no number for: clients drop missing metrics."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
