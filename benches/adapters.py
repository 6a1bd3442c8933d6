"""Real adapters in bulk: written straight into a local blob store and the registry's tables.

An adapter made here is byte for byte what an export makes; only the road is shorter: no event per revision,
and nothing is prewarmed.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import numpy as np

from mint_common.adapters_format import (
    CONFIG_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    AdapterFiles,
    BaseFacts,
    build_adapter,
    peft_name,
)
from mint_common.adapters_format.manifest import proof_of, write_manifest
from mint_common.adapters_format.storage import adapter_prefix
from mint_common.claims import Claim, RevisionRef
from mint_common.ids import PolicyId
from tests.testing.adapters import vouched

_INSERT_CHUNK = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The shape of the adapters: ``targets`` None means every module of the base."""

    rank: int = 8
    targets: tuple[str, ...] | None = None
    scale: float = 0.02


def make_adapters(
    facts: BaseFacts, policy_id: PolicyId, count: int, recipe: Recipe, *, seed: int
) -> Iterator[AdapterFiles]:
    """Yield different adapters of one shape; only the first one is built tensor by tensor."""
    rng = np.random.default_rng(seed)
    pattern = build_adapter(
        facts=facts,
        policy_id=policy_id,
        step=0,
        parent=None,
        rank=recipe.rank,
        tensors=_tensors(facts, recipe, rng),
    )
    manifest, weights = pattern.manifest, pattern.files[WEIGHTS_FILE]
    header_bytes = 8 + int.from_bytes(weights[:8], "little")
    header, values = weights[:header_bytes], (len(weights) - header_bytes) // 4
    for step in range(count):
        numbers = rng.standard_normal(values, dtype=np.float32) * np.float32(recipe.scale)
        data = header + numbers.tobytes()
        stepped = replace(vouched(data, manifest), step=step)
        contents = {
            WEIGHTS_FILE: data,
            CONFIG_FILE: pattern.files[CONFIG_FILE],
            MANIFEST_FILE: write_manifest(stepped),
        }
        yield AdapterFiles(files=contents, digest=stepped.digest, manifest=stepped)


def store_in_bulk(root: Path, adapters: Iterator[AdapterFiles]) -> list[RevisionRef]:
    """Write adapters as `LocalBlobs` would keep them, but without a sync for each file."""
    refs = []
    for number, files in enumerate(adapters, 1):
        prefix = adapter_prefix(files.manifest.policy_id, files.digest, export_id="bench")
        write_adapter(files, root / prefix)
        proof = proof_of(files.files[MANIFEST_FILE])
        claim = Claim(uri=f"{prefix}/{MANIFEST_FILE}", sha256=proof.sha256, size_bytes=proof.size_bytes)
        refs.append(RevisionRef(digest=files.digest, number=number, manifest=claim))
    return refs


def write_folders(root: Path, adapters: Iterator[AdapterFiles]) -> list[Path]:
    """Write adapters as folders that vLLM and PEFT read."""
    return [write_adapter(files, root / files.digest.removeprefix("sha256:")) for files in adapters]


def write_adapter(files: AdapterFiles, folder: Path) -> Path:
    """Write an adapter to a new folder, and return it."""
    folder.mkdir(parents=True)
    for name, data in files.files.items():
        (folder / name).write_bytes(data)
    return folder


async def register_in_bulk(dsn: str, policy_id: PolicyId, revisions: Sequence[RevisionRef]) -> None:
    """Make revisions of a policy known to the registry, as already published."""
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "registry"})
    try:
        for start in range(0, len(revisions), _INSERT_CHUNK):
            part = revisions[start : start + _INSERT_CHUNK]
            await copy_revisions(connection, [(policy_id, ref) for ref in part])
    finally:
        await connection.close()


async def copy_revisions(
    connection: asyncpg.Connection, revisions: Sequence[tuple[PolicyId, RevisionRef]]
) -> None:
    """Write rows of published revisions, whose step is their number."""
    now = datetime.now(UTC)
    columns = ("policy_id", "number", "digest", "manifest_uri", "manifest_sha256", "manifest_size_bytes")
    await connection.copy_records_to_table(
        "revisions",
        schema_name="registry",
        columns=(*columns, "step", "metrics", "export_id", "created_at"),
        records=[
            (
                policy_id,
                ref.number,
                ref.digest,
                ref.manifest.uri,
                ref.manifest.sha256,
                ref.manifest.size_bytes,
                ref.number,
                json.dumps({}),
                f"bench-{ref.number}",
                now,
            )
            for policy_id, ref in revisions
        ],
    )


def _tensors(facts: BaseFacts, recipe: Recipe, rng: np.random.Generator) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    for module, (width, height) in facts.modules.items():
        if recipe.targets is None or module.rpartition(".")[2] in recipe.targets:
            a = rng.standard_normal((recipe.rank, width), dtype=np.float32)
            b = rng.standard_normal((height, recipe.rank), dtype=np.float32)
            tensors |= {peft_name(module, "A"): a, peft_name(module, "B"): b}
    return tensors
