"""``mint/checkpoints/interpolate``: the checkpoints to mix, their coefficients, and the answer.

Coefficients add up to 1, so that a mixture of one checkpoint with itself is that checkpoint.
"""

import math
from collections.abc import Sequence

import msgspec

from mint_common.errors import InvalidField
from mint_common.json_types import JsonObject
from mint_common.training import CheckpointRecord, JsonScalar
from services.gateway.core.tinker.ids import CheckpointPath, check_checkpoint_name, parse_path

MAX_SOURCES = 16
MAX_COEFFICIENT = 1000.0
TOLERANCE = 1e-6
DEFAULT_NAME = "interpolated"
_SOURCES, _COEFFICIENTS = "source_paths", "coefficients"


class InterpolateBody(msgspec.Struct, frozen=True):
    """The body; ``output_path`` is a bare name."""

    source_paths: list[str]
    coefficients: list[float]
    output_path: str | None = None
    output_checkpoint_type: str = "sampler"
    ttl_seconds: int | None = None


def read_sources(wish: InterpolateBody) -> Sequence[CheckpointPath]:
    """Return the checkpoints to mix, after checking the whole body. Raises InvalidField."""
    if wish.output_checkpoint_type != "sampler":
        problem = f"must be sampler, got {wish.output_checkpoint_type[:100]!r}"
        raise InvalidField(field="output_checkpoint_type", problem=problem)
    if not 2 <= len(wish.source_paths) <= MAX_SOURCES:
        problem = f"must be from 2 to {MAX_SOURCES} checkpoints, got {len(wish.source_paths)}"
        raise InvalidField(field="source_paths", problem=problem)
    if len(wish.coefficients) != len(wish.source_paths):
        problem = f"must be {len(wish.source_paths)}, one for each source, got {len(wish.coefficients)}"
        raise InvalidField(field="coefficients", problem=problem)
    for index, coefficient in enumerate(wish.coefficients):
        if not abs(coefficient) <= MAX_COEFFICIENT:
            problem = f"must be from -{MAX_COEFFICIENT} to {MAX_COEFFICIENT}, got {coefficient}"
            raise InvalidField(field=f"coefficients[{index}]", problem=problem)
    total = math.fsum(wish.coefficients)
    if abs(total - 1.0) > TOLERANCE:
        raise InvalidField(field="coefficients", problem=f"must add up to 1, and add up to {total}")
    return [parse_path(f"source_paths[{index}]", path) for index, path in enumerate(wish.source_paths)]


def output_name(wish: InterpolateBody) -> str:
    """Return the name of the new checkpoint. Raises InvalidField."""
    return (
        DEFAULT_NAME if wish.output_path is None else check_checkpoint_name("output_path", wish.output_path)
    )


def check_alike(records: Sequence[CheckpointRecord]) -> None:
    """Refuse to mix checkpoints of several bases or shapes of LoRA. Raises InvalidField."""
    first = records[0]
    for index, record in enumerate(records[1:], start=1):
        for what, found, wanted in (
            ("base", record.base, first.base),
            ("LoRA rank", record.lora.rank, first.lora.rank),
            ("LoRA alpha", record.lora.alpha, first.lora.alpha),
            ("trained modules", list(record.lora.targets), list(first.lora.targets)),
        ):
            if found != wanted:
                problem = f"has {what} {found}, source_paths[0] has {wanted}: only equal shapes can be mixed"
                raise InvalidField(field=f"source_paths[{index}]", problem=problem)


def metadata_of(wish: InterpolateBody) -> dict[str, JsonScalar]:
    """Return the metadata stored with a mixture, which its answer repeats: its sources."""
    return {
        _SOURCES: msgspec.json.encode(wish.source_paths).decode(),
        _COEFFICIENTS: msgspec.json.encode(wish.coefficients).decode(),
    }


def mixture_answer(path: str, record: CheckpointRecord) -> JsonObject:
    """Return the answer to a finished interpolation."""
    return {
        "type": "mint_interpolate_checkpoints",
        "path": path,
        "checkpoint_type": "sampler",
        "source_paths": msgspec.json.decode(str(record.metadata[_SOURCES]), type=list[str]),
        "coefficients": msgspec.json.decode(str(record.metadata[_COEFFICIENTS]), type=list[float]),
        "has_rank_shards": False,
    }
