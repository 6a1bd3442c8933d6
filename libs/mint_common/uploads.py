"""Reasons to refuse an upload: error codes, each with a sentence that says what to do.

Every reason is the end of a code, ``upload_refused.<reason>``;
docs/reference/uploads.md is generated from here.
"""

from collections.abc import Mapping
from enum import StrEnum

from mint_common.adapters_format import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE, Reason
from mint_common.errors import UploadRefused


class UploadReason(StrEnum):
    """Faults of an upload before it is read as an adapter; `Reason` has those after."""

    NOT_TAR = "not_tar"
    """The body is no plain tar archive, or is cut off."""
    STALLED = "stalled"
    """The body came too slowly, paused for 10 s, or took more than an hour."""
    TRAVERSAL = "traversal"
    """A name in the archive leads out of its own folder."""
    LINK = "link"
    """The archive holds a hard or symbolic link."""
    UNSAFE_ARCHIVE = "unsafe_archive"
    """The archive holds a folder, a device, or a header that redirects what follows."""
    PICKLE = "pickle"
    """A `.bin`, `.pt` or another file that runs code when it is loaded."""
    DISGUISED_PICKLE = "disguised_pickle"
    """The weights are named safetensors and hold a pickle."""
    UNKNOWN_FILE = "unknown_file"
    """A file that no adapter has."""
    MISSING_FILE = "missing_file"
    """No weights, or no config."""
    REPEATED_FILE = "repeated_file"
    """A file name occurs twice."""
    TOO_LARGE = "too_large"
    """A file is larger than any adapter of this base, or than MinT takes."""
    UNKNOWN_PARENT = "unknown_parent"
    """The parent is no revision of this policy."""


FIXES: Mapping[str, str] = {
    UploadReason.NOT_TAR: "Send the folder as a plain, uncompressed tar: tar -cf - -C FOLDER .",
    UploadReason.STALLED: "Send it again, faster and without pauses.",
    UploadReason.TRAVERSAL: "Archive the files from within their folder: tar -cf - -C FOLDER .",
    UploadReason.LINK: "Archive the files themselves: tar -chf - -C FOLDER . follows links.",
    UploadReason.UNSAFE_ARCHIVE: "Archive only the adapter's own plain files: tar -cf - -C FOLDER .",
    UploadReason.PICKLE: "Save the adapter with save_pretrained(..., safe_serialization=True), then send "
    "adapter_model.safetensors.",
    UploadReason.DISGUISED_PICKLE: "Load it in a safe environment and save it with safetensors: renaming the "
    "file is not enough.",
    UploadReason.UNKNOWN_FILE: f"Send {WEIGHTS_FILE} and {CONFIG_FILE} only.",
    UploadReason.MISSING_FILE: f"Send both {WEIGHTS_FILE} and {CONFIG_FILE}.",
    UploadReason.REPEATED_FILE: "Put every file into the archive once.",
    UploadReason.TOO_LARGE: "Send an adapter of the policy's rank and targets, and nothing but the adapter.",
    UploadReason.UNKNOWN_PARENT: "Name a revision of this policy by number or digest, or leave parent out.",
    Reason.BAD_MANIFEST: f"Leave {MANIFEST_FILE} out: the registry writes it.",
    Reason.UNSUPPORTED_LAYOUT: "Save it as PEFT does, or with mint adapter pack.",
    Reason.UNSUPPORTED_CONFIG: "Train plain LoRA: the engine adds B A to weights, and nothing else.",
    Reason.OTHER_METHOD: "Train with LoraConfig: the engine adds B A to weights, and nothing else.",
    Reason.DORA: "Train with use_dora=False: the engine serves plain LoRA only.",
    Reason.BIAS: "Train with bias='none' and lora_bias=False: biases belong to the base, which is shared.",
    Reason.EXTRA_MODULES: "Train without modules_to_save: whole modules belong to the base, which is shared.",
    Reason.EMBEDDINGS: "Leave embeddings and lm_head out of target_modules, keep the base's vocabulary, and "
    "save with save_embedding_layers=False.",
    Reason.CHANGED_BASE: "The folder of that argument has the adapter as it was before training, saved with "
    "init_lora_weights=True.",
    Reason.WRONG_BASE: "Upload it to a policy over the base that it was trained over.",
    Reason.WRONG_TARGETS: "Upload it to a policy with these targets, or make one: mint policy import.",
    Reason.NO_MODULES: "Check the names of its tensors: none of them is a module of the base.",
    Reason.NOT_SAFETENSORS: "Save the weights with safetensors.",
    Reason.HEADER_TOO_LARGE: "Save the weights with safetensors, without metadata beside the tensors.",
    Reason.GAPS_OR_OVERLAPS: "Save the weights again: the file is cut off or was changed by hand.",
    Reason.UNKNOWN_TENSOR: "Send LoRA weights only, named as PEFT names them.",
    Reason.MISSING_TENSOR: "Save all of the adapter: each module needs its A and its B.",
    Reason.WRONG_DTYPE: "Save all weights in one of F32, BF16 and F16.",
    Reason.WRONG_RANK: "Upload it to a policy of that rank or above, or make one (mint policy import) if "
    "the base's --max-rank allows it.",
    Reason.WRONG_SHAPE: "Check that it was trained over this base: its shapes belong to another one.",
    Reason.MISPLACED: "Pack it with mint adapter pack.",
    Reason.NOT_FINITE: "Find out where the training went wrong: some weights are NaN or infinite.",
    Reason.UPDATE_TOO_LARGE: "Scale it down (lora_alpha), or train it again with smaller steps: it is far "
    "larger than the base's own weights. MINT_REGISTRY_MAX_UPDATE_RATIO is the operator's limit.",
    Reason.WRONG_DIGEST: f"Leave {MANIFEST_FILE} out: it describes other weights.",
    Reason.WRONG_POLICY: f"Leave {MANIFEST_FILE} out: it describes another policy.",
}
"""Reason -> what to do about it."""

UPLOAD_CODES = tuple(sorted(f"{UploadRefused.code}.{reason}" for reason in FIXES))
"""The codes of all refusals."""
