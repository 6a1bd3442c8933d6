"""Checks of uploaded adapters: their files, sizes and config."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mint_common.adapters_format import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE, BaseFacts, Reason
from mint_common.adapters_format.check import MAX_CONFIG_BYTES
from mint_common.adapters_format.origin import AdapterShape, Origin
from mint_common.adapters_format.refusal import shown
from mint_common.errors import AdapterInvalid, UploadRefused
from mint_common.events.job import LoraSpec
from mint_common.ids import BaseName, TenantId
from mint_common.lora import MAX_ALPHA, plan_lora
from mint_common.uploads import FIXES, UploadReason

MAX_WEIGHTS_BYTES = 5 * 10**9
"""Maximum size of one S3 object; a rank-16 adapter over all experts of a 30B base has 2 GB."""

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_LIMITS: Mapping[str, int] = {
    WEIGHTS_FILE: MAX_WEIGHTS_BYTES,
    CONFIG_FILE: MAX_CONFIG_BYTES,
    MANIFEST_FILE: MAX_CONFIG_BYTES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPolicy:
    """A policy that an upload makes, of the adapter's own rank and targets."""

    tenant_id: TenantId
    name: str
    base: BaseName


def shape_of(lora: LoraSpec) -> AdapterShape:
    """Return the shape of a policy's adapters."""
    return AdapterShape(rank=lora.rank, targets=lora.targets)


def lora_of(facts: BaseFacts, origin: Origin) -> LoraSpec:
    """Return the LoRA of a new policy that goes on as the adapter was trained. Raises InvalidField."""
    alpha = origin.scaling * origin.rank
    known = alpha if 0 < alpha <= MAX_ALPHA else None
    return plan_lora(facts, rank=origin.rank, alpha=known, targets=origin.targets)


def refused(reason: UploadReason, problem: str) -> UploadRefused:
    """Return the error to raise."""
    return UploadRefused(reason=reason.value, problem=problem, fix=FIXES[reason])


def with_fix(error: AdapterInvalid) -> UploadRefused:
    """Return the upload error of a refused adapter."""
    if isinstance(error, UploadRefused):
        return error
    reason = str(error.reason)
    return UploadRefused(reason=reason, problem=str(error.problem), fix=FIXES.get(reason, ""))


def check_file(name: str, size_bytes: int, *, seen: Collection[str]) -> None:
    """Check a file's name and size before its first byte. Raises UploadRefused."""
    if name.endswith(_PICKLES):
        raise refused(UploadReason.PICKLE, f"{name[:100]!r} can run code when it is loaded")
    if name not in _LIMITS:
        raise refused(UploadReason.UNKNOWN_FILE, f"{name[:100]!r} is not a file of an adapter")
    if name in seen:
        raise refused(UploadReason.REPEATED_FILE, f"{name} comes twice")
    if size_bytes > _LIMITS[name]:
        problem = f"{name} has {size_bytes} bytes, the limit is {_LIMITS[name]}"
        raise refused(UploadReason.TOO_LARGE, problem)


def check_files(seen: Collection[str]) -> None:
    """Check that no file is missing. Raises UploadRefused."""
    missing = [name for name in (WEIGHTS_FILE, CONFIG_FILE) if name not in seen]
    if missing:
        raise refused(UploadReason.MISSING_FILE, f"no {' and no '.join(missing)}")


def check_first_bytes(data: bytes) -> None:
    """Check that the weights are not a renamed pickle. Raises UploadRefused."""
    # A safetensors file begins with a length below 2^32 in eight bytes, so its bytes 4 to 8 are zeros.
    if data[4:8].strip(b"\0") and (data[:2] == b"PK" or data[:1] == b"\x80"):
        raise refused(UploadReason.DISGUISED_PICKLE, f"{WEIGHTS_FILE} holds a pickle")


def check_config(config: bytes, facts: BaseFacts, bases: Collection[str]) -> tuple[str, ...]:
    """Check the fields of a PEFT config that conversion does not check, and return warnings about them.

    PEFT writes a path or a hub name as the base, so only the name of another registered base is refused; any
    other name is a warning. Raises UploadRefused.
    """
    try:
        values = json.loads(config)
    except (ValueError, RecursionError):
        return ()  # conversion reports it
    if not isinstance(values, dict):
        return ()
    said = str(values.get("base_model_name_or_path") or facts.name)
    named = said.rstrip("/").rpartition("/")[2]
    if named in bases and named != facts.name:
        problem = f"trained over {named}, the policy is over {facts.name}"
        raise UploadRefused(reason=Reason.WRONG_BASE.value, problem=problem, fix=FIXES[Reason.WRONG_BASE])
    if named == facts.name:
        return ()
    return (f"{CONFIG_FILE} names {shown(said)} as its base; the adapter was taken as one of {facts.name}.",)
