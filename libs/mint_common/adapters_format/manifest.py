"""The manifest: an adapter's layout, base, origin and the hashes of its files."""

import hashlib
import json
import re
from dataclasses import dataclass, replace

import msgspec

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.refusal import Reason, refusal
from mint_common.ids import BaseName, Digest, PolicyId, is_digest, sha256_digest
from mint_common.model_files import CONFIG_FILE, WEIGHTS_FILE

MAX_MANIFEST_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TARGET = re.compile(r"[A-Za-z0-9_]{1,64}(\.[A-Za-z0-9_]{1,64})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileProof:
    """Expected size and SHA-256 (hex) of a file."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`mint_manifest.json`. ``targets`` are sorted (see `sites`); ``files`` holds the two other files.

    ``digest`` names the content: equal weights over an equal base have equal digests, for any exporter
    and step.
    """

    layout: str
    digest: Digest
    base: BaseName
    base_digest: Digest
    policy_id: PolicyId
    step: int
    parent: Digest | None
    rank: int
    targets: tuple[str, ...]
    dtype: str
    files: dict[str, FileProof]


def new_manifest(
    facts: BaseFacts,
    *,
    layout: str,
    policy_id: PolicyId,
    step: int,
    parent: Digest | None,
    rank: int,
    targets: tuple[str, ...],
    dtype: str,
    weights: FileProof,
    config: bytes,
) -> Manifest:
    """Return the manifest of an adapter over a base, with the digest of its content."""
    manifest = Manifest(
        layout=layout,
        digest=Digest(""),
        base=facts.name,
        base_digest=facts.digest,
        policy_id=policy_id,
        step=step,
        parent=parent,
        rank=rank,
        targets=targets,
        dtype=dtype,
        files={WEIGHTS_FILE: weights, CONFIG_FILE: proof_of(config)},
    )
    return replace(manifest, digest=adapter_digest(manifest))


def adapter_digest(manifest: Manifest) -> Digest:
    """Return the digest of the content that a manifest describes, whatever digest the manifest states."""
    content = {
        "layout": manifest.layout,
        "base_digest": manifest.base_digest,
        "rank": manifest.rank,
        "targets": list(manifest.targets),
        "dtype": manifest.dtype,
        "weights_sha256": manifest.files[WEIGHTS_FILE].sha256,
    }
    return sha256_digest(canonical_json(content))


def proof_of(data: bytes) -> FileProof:
    """Return the proof of some bytes."""
    return FileProof(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def write_manifest(manifest: Manifest) -> bytes:
    """Return the canonical bytes of a manifest."""
    return canonical_json(msgspec.to_builtins(manifest))


def read_manifest(data: bytes) -> Manifest:
    """Read a manifest. Raises AdapterInvalid(reason="bad_manifest") and nothing else."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise refusal(Reason.BAD_MANIFEST, f"{len(data)} bytes, the limit is {MAX_MANIFEST_BYTES}")
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (ValueError, RecursionError) as error:
        raise refusal(Reason.BAD_MANIFEST, ascii(str(error)[:200])) from error
    problem = _problem(manifest)
    if problem:
        raise refusal(Reason.BAD_MANIFEST, problem)
    return manifest


def canonical_json(value: object) -> bytes:
    """Return JSON with sorted keys, no spaces and ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _problem(manifest: Manifest) -> str:
    digests = (manifest.digest, manifest.base_digest, manifest.parent or manifest.digest)
    proofs = manifest.files.values()
    promises = {
        "a digest is not sha256:<64 hex digits>": all(map(is_digest, digests)),
        f"files are not {WEIGHTS_FILE} and {CONFIG_FILE}": set(manifest.files) == {WEIGHTS_FILE, CONFIG_FILE},
        "a file's sha256 is not 64 hex digits": all(_SHA256.fullmatch(proof.sha256) for proof in proofs),
        "a file's size is negative": all(proof.size_bytes >= 0 for proof in proofs),
        "targets are not sorted and unique": list(manifest.targets) == sorted(set(manifest.targets)),
        "a target is not the last part or two of a name": all(map(_TARGET.fullmatch, manifest.targets)),
        "rank or step is out of range": 0 < manifest.rank < 2**31 and 0 <= manifest.step < 2**63,
    }
    return next((problem for problem, kept in promises.items() if not kept), "")
