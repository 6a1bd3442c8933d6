"""Uploaded adapters: which files, how large, and for each refusal a sentence that says what to do."""

import json
from collections.abc import Collection, Mapping
from enum import StrEnum

from mint_common.adapters_format import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE, BaseFacts, Reason
from mint_common.errors import AdapterInvalid, UploadRefused

MAX_CONFIG_BYTES = 1 << 20
MAX_WEIGHTS_BYTES = 5 * 10**9
"""What S3 takes as one object; a rank-16 adapter over all experts of a 30B base has 2 GB."""

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_LIMITS: Mapping[str, int] = {
    WEIGHTS_FILE: MAX_WEIGHTS_BYTES,
    CONFIG_FILE: MAX_CONFIG_BYTES,
    MANIFEST_FILE: MAX_CONFIG_BYTES,
}


class UploadReason(StrEnum):
    """What can be wrong with an upload before it is an adapter; `Reason` says what comes after."""

    NOT_TAR = "not_tar"
    """The body is no plain tar archive, or is cut off."""
    UNSAFE_ARCHIVE = "unsafe_archive"
    """It holds links, folders, devices or names that lead elsewhere."""
    PICKLE = "pickle"
    """A file that runs code when it is loaded."""
    UNKNOWN_FILE = "unknown_file"
    """A file that no adapter has."""
    MISSING_FILE = "missing_file"
    """No weights, or no config."""
    REPEATED_FILE = "repeated_file"
    """A name comes twice."""
    TOO_LARGE = "too_large"
    """A file is larger than any adapter of this base, or than MinT takes."""
    DORA = "dora"
    """DoRA: the engine has no place for its magnitudes."""
    UNKNOWN_PARENT = "unknown_parent"
    """The parent is no revision of this policy."""


FIXES: Mapping[str, str] = {
    UploadReason.NOT_TAR: "Send the folder as a plain, uncompressed tar: tar -cf - -C FOLDER .",
    UploadReason.UNSAFE_ARCHIVE: "Archive only the adapter's own files, without links or folders.",
    UploadReason.PICKLE: "Save the adapter with save_pretrained(..., safe_serialization=True), then send "
    "adapter_model.safetensors.",
    UploadReason.UNKNOWN_FILE: f"Send {WEIGHTS_FILE} and {CONFIG_FILE} only.",
    UploadReason.MISSING_FILE: f"Send both {WEIGHTS_FILE} and {CONFIG_FILE}.",
    UploadReason.REPEATED_FILE: "Put every file into the archive once.",
    UploadReason.TOO_LARGE: "Send an adapter of the policy's rank and targets, and nothing but the adapter.",
    UploadReason.DORA: "Train with use_dora=False: the engine serves plain LoRA only.",
    UploadReason.UNKNOWN_PARENT: "Name a revision of this policy by number or digest, or leave parent out.",
    Reason.BAD_MANIFEST: f"Leave {MANIFEST_FILE} out: the registry writes it.",
    Reason.UNSUPPORTED_LAYOUT: "Save it as PEFT does, or with mint adapter pack.",
    Reason.UNSUPPORTED_CONFIG: "Train plain LoRA: one rank, one alpha, no bias, no extra modules.",
    Reason.WRONG_BASE: "Upload it to a policy over the base that it was trained over.",
    Reason.WRONG_TARGETS: "Upload it to a policy with the same target modules, or make one.",
    Reason.NO_MODULES: "Check the names of its tensors: none of them is a module of the base.",
    Reason.NOT_SAFETENSORS: "Save the weights with safetensors.",
    Reason.HEADER_TOO_LARGE: "Save the weights with safetensors; its header may have 100 MB.",
    Reason.GAPS_OR_OVERLAPS: "Save the weights again: the file is cut off or was changed by hand.",
    Reason.UNKNOWN_TENSOR: "Send LoRA weights only, named as PEFT names them.",
    Reason.MISSING_TENSOR: "Save all of the adapter: each module needs its A and its B.",
    Reason.WRONG_DTYPE: "Save all weights in one of F32, BF16 and F16.",
    Reason.WRONG_RANK: "Upload it to a policy of the same rank, or make one.",
    Reason.WRONG_SHAPE: "Check that it was trained over this base: its shapes are of another one.",
    Reason.MISPLACED: "Pack it with mint adapter pack.",
    Reason.NOT_FINITE: "Find out where the training went wrong: the weights are not numbers any more.",
    Reason.WRONG_DIGEST: f"Leave {MANIFEST_FILE} out: it is of other weights.",
    Reason.WRONG_POLICY: f"Leave {MANIFEST_FILE} out: it is of another policy.",
}
"""Reason -> what to do about it."""


def refused(reason: UploadReason, problem: str) -> UploadRefused:
    """Return the error to raise."""
    return UploadRefused(reason=reason.value, problem=problem, fix=FIXES[reason])


def with_fix(error: AdapterInvalid) -> UploadRefused:
    """Return a refused adapter's error as that of an upload."""
    if isinstance(error, UploadRefused):
        return error
    reason = str(error.reason)
    return UploadRefused(reason=reason, problem=str(error.problem), fix=FIXES.get(reason, ""))


def check_file(name: str, size_bytes: int, *, seen: Collection[str]) -> None:
    """Check a file by its name and size, before its first byte. Raises UploadRefused."""
    if name.endswith(_PICKLES):
        raise refused(UploadReason.PICKLE, f"{name[:100]!r} can run code when it is loaded")
    if name not in _LIMITS:
        raise refused(UploadReason.UNKNOWN_FILE, f"{name[:100]!r} is no file of an adapter")
    if name in seen:
        raise refused(UploadReason.REPEATED_FILE, f"{name} comes twice")
    if size_bytes > _LIMITS[name]:
        problem = f"{name} has {size_bytes} bytes, the limit is {_LIMITS[name]}"
        raise refused(UploadReason.TOO_LARGE, problem)


def check_files(seen: Collection[str]) -> None:
    """Check that nothing is missing. Raises UploadRefused."""
    missing = [name for name in (WEIGHTS_FILE, CONFIG_FILE) if name not in seen]
    if missing:
        raise refused(UploadReason.MISSING_FILE, f"no {' and no '.join(missing)}")


def check_first_bytes(data: bytes) -> None:
    """Check that weights are no pickle under another name. Raises UploadRefused."""
    # A safetensors file begins with a length below 2^32 in eight bytes, so its bytes 4 to 8 are zeros.
    if data[4:8].strip(b"\0") and (data[:2] == b"PK" or data[:1] == b"\x80"):
        raise refused(UploadReason.PICKLE, f"{WEIGHTS_FILE} holds a pickle")


def check_config(config: bytes, facts: BaseFacts, bases: Collection[str]) -> None:
    """Check what a PEFT config says beyond what reading the adapter checks. Raises UploadRefused.

    PEFT writes a path or a hub name as the base, so only the name of another base here is a contradiction.
    """
    try:
        values = json.loads(config)
    except (ValueError, RecursionError):
        return  # whoever reads the adapter says so
    if not isinstance(values, dict):
        return
    if values.get("use_dora"):
        raise refused(UploadReason.DORA, "use_dora is set")
    named = str(values.get("base_model_name_or_path", "")).rstrip("/").rpartition("/")[2]
    if named in bases and named != facts.name:
        problem = f"trained over {named}, the policy is over {facts.name}"
        raise UploadRefused(reason=Reason.WRONG_BASE.value, problem=problem, fix=FIXES[Reason.WRONG_BASE])
