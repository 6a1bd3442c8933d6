"""Reasons to refuse an adapter: a stable word for programs and a problem text for people."""

from enum import StrEnum

from mint_common.errors import AdapterInvalid, MintError


class Reason(StrEnum):
    """The first thing that was found wrong with an adapter."""

    BAD_MANIFEST = "bad_manifest"
    """`mint_manifest.json` cannot be read, or contradicts itself."""
    UNSUPPORTED_LAYOUT = "unsupported_layout"
    """A layout that this version does not know, or that cannot express the targets."""
    UNSUPPORTED_CONFIG = "unsupported_config"
    """`adapter_config.json` asks for more than plain LoRA at scaling 1, or contradicts the manifest."""
    OTHER_METHOD = "other_method"
    """Another method than LoRA: LoHa, LoKr, IA3, AdaLoRA, VeRA, prompt tuning, ..."""
    DORA = "dora"
    """DoRA: the engine cannot serve its magnitude vectors."""
    BIAS = "bias"
    """It trains biases."""
    EXTRA_MODULES = "extra_modules"
    """It has whole modules of its own (`modules_to_save`)."""
    EMBEDDINGS = "embeddings"
    """It changes embeddings, or the head over them."""
    CHANGED_BASE = "changed_base"
    """It began as PiSSA, OLoRA, CorDA, LoftQ or LoRA-GA, so it is for a base with other weights."""
    WRONG_BASE = "wrong_base"
    """It was trained over another base."""
    WRONG_TARGETS = "wrong_targets"
    """It targets modules that the base, or the policy, does not have."""
    NO_MODULES = "no_modules"
    """It changes nothing: no targets."""
    NOT_SAFETENSORS = "not_safetensors"
    """The weights are not a safetensors file."""
    HEADER_TOO_LARGE = "header_too_large"
    """The safetensors header is longer than the format allows, or than the tensors of the base need."""
    GAPS_OR_OVERLAPS = "gaps_or_overlaps"
    """Tensors do not tile the data: bytes are missing, shared, unused or cut off."""
    UNKNOWN_TENSOR = "unknown_tensor"
    """A tensor belongs to no target module."""
    MISSING_TENSOR = "missing_tensor"
    """A target module lacks its A or its B."""
    WRONG_DTYPE = "wrong_dtype"
    """A dtype that is not allowed, or not the manifest's."""
    WRONG_RANK = "wrong_rank"
    """A rank above the base's limit, or not the manifest's, or not the policy's."""
    WRONG_SHAPE = "wrong_shape"
    """A tensor does not fit its module."""
    MISPLACED = "misplaced"
    """A packed file's tensors are not in load order, or not at multiples of 64 bytes."""
    NOT_FINITE = "not_finite"
    """A weight is NaN or infinite."""
    UPDATE_TOO_LARGE = "update_too_large"
    """A weight, or the norm of a module's update relative to the base's weight, is implausibly large."""
    WRONG_DIGEST = "wrong_digest"
    """The content does not match its digest."""
    WRONG_POLICY = "wrong_policy"
    """The manifest names another policy, step or parent than the export."""


class AdapterUnreadable(MintError):
    """Adapter {digest} cannot be read yet: {problem}. It is of a newer version than the loader."""

    code = "adapter_unreadable"
    retryable = True
    http_status = 503


def refusal(reason: Reason, problem: str) -> AdapterInvalid:
    """Return the error to raise."""
    return AdapterInvalid(reason=reason.value, problem=problem)


def shown(text: str) -> str:
    """Return an untrusted name for a message: quoted, printable, bounded."""
    return ascii(text[:120]) + ("..." if len(text) > 120 else "")
