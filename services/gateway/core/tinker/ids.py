"""Ids of the Tinker API: sessions, training runs, sampling sessions, checkpoint paths, requests.

A training run is named ``{session}:train:{n}``, because clients compute that name themselves; its policy is
named ``{session}.train.{n}``. The request id of a training operation contains all that is needed to answer
for it, so that it needs no row and survives restarts.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Literal, get_args

from mint_common.errors import InvalidField, NotFound
from mint_common.ids import PolicyId, TenantId, derive_id
from mint_common.training import LAST_SEQ, UNNUMBERED
from services.gateway.core.tinker.futures import FutureGone

MAX_SEQ = LAST_SEQ
"""Sequence numbers are int32 on the wire."""
SAMPLE_PREFIX = "smp_"
"""Prefix of the request ids of samples. After a dot follows the tag of the gateway that has the sample."""

CheckpointKind = Literal["training", "sampler"]
FutureKind = Literal[
    "create", "pass", "distill", "step", "save", "load", "export", "open", "inflight", "mix", "close"
]
"""``load`` and ``create`` differ in what is answered only; ``open``, ``inflight`` and ``mix`` are exports:
the first two open a sampling session, the last one is of a mixture."""

_SESSION = re.compile(r"ses_[a-z2-7]{26}", re.ASCII)
_MODEL = re.compile(r"(ses_[a-z2-7]{26}):train:([0-9]{1,10})", re.ASCII)
_SAMPLER = re.compile(r"(ses_[a-z2-7]{26}):sample:([0-9]{1,19})", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=+@-]{0,127}", re.ASCII)
_REQUEST = re.compile(r"op:([a-z]+):([0-9]{1,19}):(pol_[a-z2-7]{26})(?::(.{1,400}))?", re.ASCII)
_KINDS = {"weights": "training", "sampler_weights": "sampler"}
_SEGMENTS = {"training": "weights", "sampler": "sampler_weights"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointPath:
    """A checkpoint as users name it: ``tinker://{run}/{weights|sampler_weights}/{name}``."""

    model_id: str
    kind: CheckpointKind
    name: str

    @property
    def checkpoint_id(self) -> str:
        """Return the part after the run."""
        return f"{_SEGMENTS[self.kind]}/{self.name}"

    def __str__(self) -> str:
        """Return the path."""
        return f"tinker://{self.model_id}/{self.checkpoint_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationId:
    """A training operation that was answered with a future; ``detail`` is what its answer needs."""

    kind: FutureKind
    policy_id: PolicyId
    seq: int
    detail: str = ""

    def __str__(self) -> str:
        """Return the request id."""
        return f"op:{self.kind}:{self.seq}:{self.policy_id}" + (f":{self.detail}" if self.detail else "")


def model_id_of(session_id: str, seq: int) -> str:
    """Return the id of a session's training run."""
    return f"{session_id}:train:{seq}"


def sampling_session_id_of(session_id: str, seq: int) -> str:
    """Return the id of a session's sampling session."""
    return f"{session_id}:sample:{seq}"


def keyed_session_id(tenant_id: TenantId, key: str) -> str:
    """Return the id of the session that a request with this idempotency key creates."""
    return derive_id("ses", tenant_id, key)


def unnumbered_seq(key: str) -> int:
    """Return the sequence number of an operation that has an idempotency key and no number: 63 bits."""
    digest = hashlib.sha256(key.encode()).digest()
    return UNNUMBERED + (int.from_bytes(digest[:8], "big") >> 2)


def gateway_tag(epoch: str) -> str:
    """Return the tag of a gateway's process, whose memory has its samples; ``epoch`` is the process's own."""
    return epoch.rpartition("_")[2][:10]


def tag_of_request(request_id: str) -> str:
    """Return the tag of the gateway that has a sample, or ""."""
    return request_id.partition(".")[2] if request_id.startswith(SAMPLE_PREFIX) else ""


def check_session_id(text: str) -> str:
    """Return a valid session id. Raises NotFound."""
    if not _SESSION.fullmatch(text):
        raise NotFound(kind="session", name=text[:100])
    return text


def parse_model_id(text: str) -> tuple[str, int]:
    """Return session and number of a training run. Raises NotFound."""
    match = _MODEL.fullmatch(text)
    if match is None or int(match[2]) > MAX_SEQ:
        raise NotFound(kind="training run", name=text[:100])
    return match[1], int(match[2])


def parse_sampling_session_id(text: str) -> tuple[str, int]:
    """Return session and number of a sampling session. Raises NotFound."""
    match = _SAMPLER.fullmatch(text)
    if match is None or int(match[2]) >= 2**63:
        raise NotFound(kind="sampling session", name=text[:100])
    return match[1], int(match[2])


def policy_name_of(session_id: str, seq: int) -> str:
    """Return the name of a training run's policy."""
    return f"{session_id}.train.{seq}"


def check_seq(seq: int | None, *, field: str = "seq_id", least: int = 1) -> int:
    """Return a valid sequence number: operations count from 1, runs and samplers of a session from 0.

    Raises InvalidField.
    """
    if seq is None or not least <= seq <= MAX_SEQ:
        raise InvalidField(field=field, problem=f"must be from {least} to {MAX_SEQ}, got {seq}")
    return seq


def check_checkpoint_name(field: str, name: str) -> str:
    """Refuse a name that cannot be part of a path. Raises InvalidField."""
    if not _NAME.fullmatch(name):
        raise InvalidField(field=field, problem=f"must match ^{_NAME.pattern}$, got {name[:150]!r}")
    return name


def parse_path(field: str, text: str) -> CheckpointPath:
    """Return the parts of ``tinker://run/kind/name`` (or ``mint://...``). Raises InvalidField."""
    scheme, _, rest = text.partition("://")
    parts = rest.split("/")
    is_known = scheme in {"tinker", "mint"} and len(parts) == 3 and parts[1] in _KINDS
    if not is_known or not _MODEL.fullmatch(parts[0]):
        problem = (
            f"must be tinker://RUN/weights/NAME or tinker://RUN/sampler_weights/NAME, got {text[:200]!r}"
        )
        raise InvalidField(field=field, problem=problem)
    return checkpoint_path(parts[0], f"{parts[1]}/{parts[2]}", field=field)


def parse_sampler_path(field: str, text: str) -> CheckpointPath:
    """Return the path of a sampler checkpoint. Raises InvalidField."""
    path = parse_path(field, text)
    if path.kind == "training":
        problem = "is a training checkpoint; only checkpoints of save_weights_for_sampler can be sampled"
        raise InvalidField(field=field, problem=problem)
    return path


def parse_model_path(model: str) -> tuple[CheckpointPath, str] | None:
    """Return the path that a model name is, with the base before it or "": ``PATH``, ``BASE;PATH``.

    None for a name of a policy or base. Raises InvalidField.
    """
    base, semicolon, text = model.rpartition(";")
    if not semicolon and "://" not in text:
        return None
    if semicolon and not base:
        raise InvalidField(field="model", problem="names no base before ';'")
    return parse_sampler_path("model", text), base


def checkpoint_path(model_id: str, checkpoint_id: str, *, field: str = "checkpoint_id") -> CheckpointPath:
    """Return the path of a run's checkpoint ``weights/NAME``. Raises NotFound for no run, InvalidField."""
    parse_model_id(model_id)
    segment, _, name = checkpoint_id.partition("/")
    if segment not in _KINDS:
        problem = f"must begin with weights/ or sampler_weights/, got {checkpoint_id[:150]!r}"
        raise InvalidField(field=field, problem=problem)
    kind: CheckpointKind = "training" if segment == "weights" else "sampler"
    return CheckpointPath(model_id=model_id, kind=kind, name=check_checkpoint_name(field, name))


def parse_request_id(text: str) -> OperationId:
    """Return the training operation that a request id stands for. Raises FutureGone."""
    match = _REQUEST.fullmatch(text)
    if match is None or match[1] not in get_args(FutureKind) or int(match[2]) >= 2**63:
        raise FutureGone(request_id=text[:100])
    kind: FutureKind = match[1]  # type: ignore[assignment]  # it was just looked up
    return OperationId(kind=kind, policy_id=PolicyId(match[3]), seq=int(match[2]), detail=match[4] or "")
