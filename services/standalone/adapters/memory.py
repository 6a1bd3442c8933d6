"""Refuses a stack whose bases alone need more memory than a machine without a GPU has."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from mint_client.core.tables import shown_bytes
from mint_common.adapters_format.tensor_file import map_tensors
from mint_common.dtypes import ITEM_BYTES
from services.standalone.adapters.gpus import usable_gpus
from services.standalone.core.plan import BaseAt
from services.standalone.core.refusals import NoRoomError


def check_memory(bases: Sequence[BaseAt], overrides: Mapping[str, str]) -> None:
    """Raise NoRoomError where the weights of all trainers and engines together exceed the machine's memory.

    ``overrides`` are the user's own ``MINT_*`` variables. A quantized base counts by the size of its files,
    once per engine. On a GPU nothing is refused: its parts check its memory themselves.
    """
    if usable_gpus():
        return
    held = {base.name: sum(_weights(base, overrides)) for base in bases}
    total = psutil.virtual_memory().total
    if sum(held.values()) <= total:
        return
    half = sum(sum(_weights(base, overrides, dtype="bfloat16")) for base in bases)
    raise NoRoomError(
        what="The weights of " + ", ".join(f"{name} ({shown_bytes(size)})" for name, size in held.items()),
        need=f"{shown_bytes(sum(held.values()))} of memory in trainers and engines",
        place="this machine",
        free=f"{shown_bytes(total)} in all",
        advice=f"With --dtype bfloat16 it is {shown_bytes(half)}"
        + (", which fits." if half <= total else ": take a smaller base, fewer engines or a larger machine."),
    )


def _weights(base: BaseAt, overrides: Mapping[str, str], *, dtype: str = "") -> Iterator[int]:
    """Yield the bytes of the weights in each part with a base, in one dtype or in the configured one."""
    engines = base.plan.engines if base.served else ()
    if not base.trainable:
        files = sum(file.stat().st_size for file in Path(base.folder).glob("*.safetensors"))
        yield from (files for _ in engines)
        return
    headers = (map_tensors(file).header for file in Path(base.folder).glob("*.safetensors"))
    parameters = sum(math.prod(each.shape) for header in headers for each in header.tensors)
    parts = [("MINT_TRAINER_DTYPE", env) for env in base.plan.trainers]
    parts += [("MINT_LOADER_DTYPE", env) for env in engines]
    for variable, env in parts:
        chosen = dtype or {**overrides, **env}.get(variable, "float32")
        yield ITEM_BYTES.get(chosen, ITEM_BYTES["float32"]) * parameters
