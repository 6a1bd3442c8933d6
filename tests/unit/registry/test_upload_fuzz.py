"""Bytes from strangers through the whole of an upload: a revision, or a refusal by its word.

Anything else would be a 5xx, which clients repeat. What is drawn begins as a right archive, so that it comes
far.
"""

import asyncio
import json
import struct
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from contract.catalog_rig import BASE, new_policy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mint_common.adapters_format import CONFIG_FILE, WEIGHTS_FILE, BaseFacts
from mint_common.blobs.localfs import LocalBlobs
from mint_common.catalog import RevisionRecord
from mint_common.errors import NotFound, UploadRefused
from mint_common.events import RevisionExported
from mint_common.ids import BaseName, Digest, PolicyId, TenantId
from mint_common.runtime.clock import SystemClock
from mint_common.uploads import FIXES
from services.registry.core.quotas import Kind
from services.registry.handlers.uploads import UploadHandler
from tests.testing.adapters import make_adapter, tar_of

POLICY = new_policy("p")
GOOD = make_adapter(BASE, seed=1).files
WEIGHTS, CONFIG = GOOD[WEIGHTS_FILE], GOOD[CONFIG_FILE]
HEADER_BYTES = struct.unpack("<Q", WEIGHTS[:8])[0]
HEADER, DATA = json.loads(WEIGHTS[8 : 8 + HEADER_BYTES]), WEIGHTS[8 + HEADER_BYTES :]
PEAK_BYTES = 8 << 20
"""Far more than these small adapters take, far less than what their headers may claim."""

NUMBERS = st.integers(-(2**70), 2**70) | st.integers(-2, 9)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "F16", "F64", "U8", "X"]) | JSON,
        "shape": st.lists(NUMBERS, max_size=4) | JSON,
        "data_offsets": st.lists(NUMBERS, max_size=3) | JSON,
    },
)
PLACE = st.integers(0, 2**20)


@st.composite
def changed_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Some bytes changed, cut out or put in."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(PLACE) % (len(changed) + 1)
        new = draw(st.binary(max_size=9))
        changed[at : at + draw(st.integers(0, 9))] = new
    return bytes(changed[: draw(PLACE)] if draw(st.booleans()) else changed)


@st.composite
def changed_weights(draw: st.DrawFn) -> bytes:
    """A safetensors file with other entries in its header, and perhaps another length before it."""
    header = dict(HEADER)
    names = st.sampled_from(sorted(header)) | st.text(max_size=20)
    for _ in range(draw(st.integers(0, 3))):
        name = draw(names)
        entry = header.get(name)
        header[name] = {**entry, **draw(ENTRY)} if isinstance(entry, dict) else draw(ENTRY | JSON)
    for _ in range(draw(st.integers(0, 2))):
        header.pop(draw(st.sampled_from(sorted(header))), None)
    text = json.dumps(header).encode()
    length = draw(st.just(len(text)) | st.integers(0, 2**64 - 1))
    return struct.pack("<Q", length) + text + DATA


CONFIGS = st.dictionaries(
    st.sampled_from(
        [*json.loads(CONFIG), "use_dora", "rank_pattern", "use_rslora", "bias", "modules_to_save"]
    ),
    JSON,
    max_size=4,
).map(lambda changes: json.dumps(json.loads(CONFIG) | changes).encode())
FILES = st.fixed_dictionaries(
    {
        WEIGHTS_FILE: st.just(WEIGHTS) | changed_weights() | changed_bytes(WEIGHTS),
        CONFIG_FILE: st.just(CONFIG)
        | CONFIGS
        | changed_bytes(CONFIG)
        | JSON.map(lambda v: json.dumps(v).encode()),
    }
)


BODIES = (
    FILES.map(tar_of)
    | changed_bytes(tar_of({WEIGHTS_FILE: WEIGHTS, CONFIG_FILE: CONFIG}))
    | st.binary(max_size=2000)
)


class Revisions:
    """What an upload asks of the catalog, for one policy."""

    def __init__(self) -> None:
        self._rows: list[RevisionRecord] = []

    async def base(self, name: str) -> BaseFacts:
        assert name == BASE.name
        return BASE

    async def base_names(self) -> Sequence[BaseName]:
        return [BASE.name]

    async def revision(self, policy_id: PolicyId, key: Digest) -> RevisionRecord:
        for row in self._rows:
            if row.digest == key:
                return row
        raise NotFound(kind="revision", name=key)

    async def check_room(self, tenant_id: TenantId, *kinds: Kind) -> None:
        """Take every adapter."""

    async def publish(self, export: RevisionExported, *, now: float, size_bytes: int = 0) -> None:
        assert export.policy_id == POLICY.policy_id
        self._rows.append(
            RevisionRecord(
                digest=export.digest,
                number=len(self._rows) + 1,
                manifest=export.manifest,
                parent=export.parent,
                step=export.step,
                metrics=export.metrics,
                state="published",
                job_id=export.job_id,
                wave_id=export.wave_id,
                created_at=now,
            )
        )


class Uploads:
    """An upload handler over files."""

    def __init__(self, folder: Path) -> None:
        self.handler = UploadHandler(
            catalog=Revisions(),
            blobs=LocalBlobs(folder),
            clock=SystemClock(),
            max_update_ratio=100.0,
        )

    def upload(self, body: bytes, chunk: int) -> RevisionRecord:
        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(body), chunk):
                yield body[start : start + chunk]

        return asyncio.run(self.handler.upload(POLICY, chunks(), step=0, parent=None))


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Uploads:
    return Uploads(tmp_path_factory.mktemp("blobs"))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(body=BODIES, chunk=st.sampled_from([1 << 16, 700, 37]))
@example(
    body=tar_of({WEIGHTS_FILE: struct.pack("<Q", 99_999_999) + bytes(64), CONFIG_FILE: CONFIG}), chunk=700
)
@example(body=tar_of({WEIGHTS_FILE: WEIGHTS, CONFIG_FILE: b"[" * 100_000}), chunk=700)
@example(
    body=tar_of({WEIGHTS_FILE: struct.pack("<Q", 99_000) + b"[" * 99_000, CONFIG_FILE: CONFIG}), chunk=700
)
def test_whatever_comes_is_a_revision_or_refused_by_its_word(
    uploads: Uploads, body: bytes, chunk: int
) -> None:
    tracemalloc.start()
    try:
        outcome: RevisionRecord | UploadRefused = uploads.upload(body, chunk)
    except UploadRefused as error:
        outcome = error
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    if isinstance(outcome, UploadRefused):
        assert (outcome.http_status, str(outcome.reason) in FIXES) == (422, True), outcome
    assert peak < PEAK_BYTES


def test_what_is_right_passes(uploads: Uploads) -> None:
    """So that what is drawn from it comes far."""
    assert uploads.upload(tar_of({WEIGHTS_FILE: WEIGHTS, CONFIG_FILE: CONFIG}), 700).number >= 1
