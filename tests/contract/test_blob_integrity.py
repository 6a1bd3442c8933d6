"""Bytes and rows: what is lost is never served, what nobody uses goes, and nothing else does."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from contract.catalog_rig import BASE, NOW, TENANT, Store, add_policy, by, export_of

from mint_common.adapters_format import WEIGHTS_FILE, AdapterFiles, store_adapter
from mint_common.blobs.localfs import LocalBlobs
from mint_common.blobs.port import Blobs
from mint_common.blobs.s3 import open_s3
from mint_common.catalog import PolicyRecord
from mint_common.claims import Claim, RevisionRef
from mint_common.errors import NotFound, RevisionLostError, Unavailable
from mint_common.events import Retention, RevisionHealed, RevisionLost, RevisionRetired
from mint_common.ids import new_id
from mint_common.runtime.clock import SystemClock
from services.registry.core.blob_integrity import ROOTS, Folder, folder_of, folders_of
from services.registry.core.names import parse_model
from services.registry.core.policies import PolicyChange
from services.registry.handlers.collector import SECONDS, Collector
from services.registry.handlers.reconciler import Reconciler
from tests.testing.adapters import make_adapter
from tests.testing.blobs_memory import MemoryBlobs
from tests.testing.clock import ManualClock

pytestmark = pytest.mark.integration

SOON = SystemClock().now() + 1_000_000


@pytest.fixture(params=["memory", "files", "s3"])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Blobs]:
    if request.param == "memory":
        yield MemoryBlobs()
    elif request.param == "files":
        yield LocalBlobs(tmp_path / "blobs")
    else:
        server = request.getfixturevalue("s3_server")
        made = await open_s3(
            bucket=server.bucket,
            region="us-east-1",
            prefix=new_id("test"),
            endpoint=server.endpoint,
            access_key=server.access_key,
            secret_key=server.secret_key,
        )
        yield made
        await made.close()


async def publish(store: Store, policy: PolicyRecord, blobs: Blobs, count: int) -> list[RevisionRef]:
    """Publish real adapters, each trained from the one before."""
    for seed in range(1, count + 1):
        await publish_one(store, policy, blobs, seed)
    found = await store.catalog.revisions(policy.policy_id, limit=count, after=0)
    return [revision.ref for revision in found]


async def publish_one(
    store: Store, policy: PolicyRecord, blobs: Blobs, seed: int, export_id: str = ""
) -> None:
    made, name = adapter(policy, seed), export_id or f"wave_{seed}"
    manifest = await store_adapter(blobs, made, export_id=name)
    export = replace(export_of(policy, seed, name), digest=made.digest, manifest=manifest)
    await store.catalog.settle_export(export, None, now=NOW + seed)


def adapter(policy: PolicyRecord, seed: int) -> AdapterFiles:
    return make_adapter(BASE, policy_id=policy.policy_id, seed=seed)


def reconciler(store: Store, blobs: Blobs) -> Reconciler:
    return Reconciler(
        integrity=store.integrity, blobs=blobs, clock=SystemClock(), bytes_per_second=10_000_000_000
    )


class Instant(ManualClock):
    """A time in the far future, in which waiting takes none: what was retired just now was so long ago."""

    async def sleep(self, seconds: float) -> None:
        """Wait for nothing."""


async def collect(
    store: Store,
    blobs: Blobs,
    *,
    used: set[str] = frozenset(),
    dry_run: bool = False,
    grace_seconds: float = 0.0,
) -> list[tuple[str, str]]:
    made = Collector(
        catalog=store.catalog,
        integrity=store.integrity,
        blobs=blobs,
        clock=Instant(SOON),
        grace_seconds=grace_seconds,
    )
    report = await made.collect(used=used, dry_run=dry_run, limit=100)
    assert not report.more
    return [(item.kind, item.what) for item in report.items]


async def keys(blobs: Blobs) -> list[str]:
    return [key async for key in blobs.list("revisions/")]


async def read_all(store: Store, blobs: Blobs) -> None:
    made = reconciler(store, blobs)
    while await made.check_next():
        continue


async def faults(store: Store, policy: PolicyRecord) -> list[str | None]:
    return [revision.fault for revision in await store.catalog.revisions(policy.policy_id, limit=99, after=0)]


async def test_lost_revision_is_named_by_nothing_until_its_bytes_are_back(store: Store) -> None:
    policy, blobs = await add_policy(store), MemoryBlobs()
    first, second = await publish(store, policy, blobs, 2)
    await store.aliases.move(policy, "prod", second, by("a"), expected=None)
    held = (await store.integrity.stored(after="", limit=9))[1]

    assert await store.integrity.mark(held, "missing", "nothing there")

    assert not await store.integrity.mark(held, "wrong", "too late: it changed meanwhile")
    assert await faults(store, policy) == [None, "missing"]
    for name in ("p", "p@prod", "p@2", f"p@{second.digest}"):
        with pytest.raises(RevisionLostError, match="missing"):
            await store.catalog.resolve(TENANT, parse_model(name))
    with pytest.raises(RevisionLostError):
        await store.aliases.move(policy, "canary", second, by("a"), expected=None)
    assert (await store.catalog.resolve(TENANT, parse_model("p@1"))).revision == first
    (now_held,) = await store.integrity.lost(after="", limit=9)
    assert now_held.fault == "missing"
    assert not await store.integrity.lost(after=now_held.position, limit=9)

    assert await store.integrity.mark(now_held, None, "")

    assert (await store.catalog.resolve(TENANT, parse_model("p"))).revision == second
    told = [event for event in await store.events() if isinstance(event, RevisionLost | RevisionHealed)]
    assert [(type(event), event.sequence) for event in told] == [(RevisionLost, 1), (RevisionHealed, 2)]
    assert told[1].revision == second


async def test_same_adapter_again_heals_a_lost_revision_at_another_place(store: Store) -> None:
    policy, blobs = await add_policy(store), MemoryBlobs()
    first, _ = await publish(store, policy, blobs, 2)
    held = (await store.integrity.stored(after="", limit=1))[0]
    await store.integrity.mark(held, "wrong", "not what it was")

    await publish_one(store, policy, blobs, 1, "wave_again")

    healed = await store.catalog.revision(policy.policy_id, 1)
    assert healed.fault is None
    assert healed.digest == first.digest
    assert healed.manifest.uri != first.manifest.uri
    await read_all(store, blobs)
    assert await faults(store, policy) == [None, None]
    assert [event.sequence for event in await store.events() if isinstance(event, RevisionHealed)] == [2]


async def test_folder_is_garbage_once_no_revision_has_named_it_for_the_grace_time(store: Store) -> None:
    policy, blobs = await add_policy(store), MemoryBlobs()
    (named,) = await publish(store, policy, blobs, 1)
    stray = adapter(policy, 9)
    claim = await store_adapter(blobs, stray, export_id="wave_stray")
    root = next(root for root in ROOTS if folder_of(claim).startswith(root))
    folders = folders_of(await keys(blobs))
    assert len(folders) == 2

    for now in (NOW, NOW + 50):
        await store.integrity.record_folders(root, folders, now=now)

    assert await store.integrity.garbage(before=NOW, limit=9) == []
    (garbage,) = await store.integrity.garbage(before=NOW + 1, limit=9)
    assert garbage == Folder(prefix=folder_of(claim), policy_id=policy.policy_id, digest=stray.digest)
    assert not await store.integrity.release_folder(folders_of([named.manifest.uri])[0])
    await store.integrity.record_folders(root, folders[:0], now=NOW)
    assert await store.integrity.garbage(before=NOW + 99, limit=9) == []


async def test_export_and_removal_of_one_folder_do_not_both_happen(store: Store) -> None:
    policy, blobs = await add_policy(store), MemoryBlobs()
    for seed in (1, 2):
        await store_adapter(blobs, adapter(policy, seed), export_id=f"wave_{seed}")
    folders = folders_of(await keys(blobs))
    for root in ROOTS:
        await store.integrity.record_folders(
            root, [folder for folder in folders if folder.prefix.startswith(root)], now=NOW
        )
    waves = {folder.prefix[-1]: folder for folder in folders}

    await publish_one(store, policy, blobs, 1)
    assert not await store.integrity.release_folder(waves["1"])
    assert await store.integrity.release_folder(waves["2"])
    with pytest.raises(Unavailable, match="garbage"):
        await publish_one(store, policy, blobs, 2)

    assert await store.integrity.folders_to_remove(limit=9) == [waves["2"].prefix]
    await store.integrity.forget_folder(waves["2"].prefix)
    await store.integrity.forget_folder(waves["2"].prefix)
    assert await store.integrity.folders_to_remove(limit=9) == []
    assert len(await store.catalog.revisions(policy.policy_id, limit=9, after=0)) == 1


async def test_bytes_are_given_up_of_retired_revisions_only(store: Store) -> None:
    policy, blobs = await add_policy(store), MemoryBlobs()
    await publish(store, policy, blobs, 2)
    assert not await store.integrity.release_bytes(policy, 1)
    await store.catalog.set_state(policy, 1, "retired")
    assert await store.integrity.release_bytes(policy, 1)
    assert not await store.integrity.release_bytes(policy, 1)
    assert await faults(store, policy) == ["collected", None]
    with pytest.raises(RevisionLostError, match="collected"):
        await store.catalog.set_state(policy, 1, "published")
    assert [held.number for held in await store.integrity.stored(after="", limit=9)] == [2]

    await publish_one(store, policy, blobs, 1, "wave_again")

    assert await faults(store, policy) == [None, None]
    assert (await store.catalog.set_state(policy, 1, "published")).state == "published"
    with pytest.raises(NotFound):
        await store.integrity.revisions_of(new_id("pol"))


async def test_one_at_a_time_has_the_turn(store: Store) -> None:
    async with store.integrity.exclusive("collect") as first, store.integrity.exclusive("collect") as second:
        assert (first, second) == (True, False)
        async with store.integrity.exclusive("reconcile") as other:
            assert other
    async with store.integrity.exclusive("collect") as again:
        assert again


async def test_walks_go_on_where_they_stopped(store: Store) -> None:
    policy = await add_policy(store)
    await publish(store, policy, MemoryBlobs(), 5)
    seen = []
    page = await store.integrity.stored(after="", limit=2)
    while page:
        seen += [held.number for held in page]
        await store.integrity.save_position("revisions", page[-1].position)
        page = await store.integrity.stored(after=await store.integrity.position("revisions"), limit=2)
    assert seen == [1, 2, 3, 4, 5]
    assert await store.integrity.position("another") == ""


async def test_reconciler_finds_what_is_missing_or_wrong_and_heals(store: Store, blobs: Blobs) -> None:
    policy = await add_policy(store)
    refs = await publish(store, policy, blobs, 5)
    kept = [adapter(policy, seed).files for seed in range(1, 6)]
    folders = [folder_of(ref.manifest) for ref in refs]
    weights = [files[WEIGHTS_FILE] for files in kept]
    await blobs.delete(refs[0].manifest.uri)
    await blobs.delete(f"{folders[1]}/{WEIGHTS_FILE}")
    await blobs.put(f"{folders[2]}/{WEIGHTS_FILE}", weights[2][:-1])
    await blobs.put(f"{folders[3]}/{WEIGHTS_FILE}", weights[3][:-1] + bytes([weights[3][-1] ^ 1]))

    await read_all(store, blobs)
    assert await faults(store, policy) == ["missing", "missing", "wrong", "wrong", None]
    await read_all(store, blobs)
    told = [event for event in await store.events() if isinstance(event, RevisionLost)]
    assert sorted(event.number for event in told) == [1, 2, 3, 4]

    for folder, files in zip(folders, kept, strict=True):
        for name, data in files.items():
            await blobs.put(f"{folder}/{name}", data)
    await reconciler(store, blobs).check_lost()
    assert await faults(store, policy) == [None] * 5


class AwayBlobs(MemoryBlobs):
    """A store that does not answer."""

    async def get(self, claim: Claim) -> bytes:
        raise Unavailable(what="the store", problem="away")


async def test_store_that_is_away_loses_nothing(store: Store) -> None:
    policy = await add_policy(store)
    await publish(store, policy, AwayBlobs(), 1)
    with pytest.raises(Unavailable):
        await reconciler(store, AwayBlobs()).check_next()
    assert await faults(store, policy) == [None]


async def test_collection_removes_what_nobody_uses_and_nothing_else(store: Store, blobs: Blobs) -> None:
    policy = await add_policy(store)
    refs = await publish(store, policy, blobs, 7)
    await store.aliases.move(policy, "prod", refs[0], by("a"), expected=None)
    await store.aliases.move(policy, "prod", refs[4], by("a"), expected=None)
    await store.catalog.change_policy(
        policy.policy_id, PolicyChange(retention=Retention(keep_last=1)), expected=None
    )
    await store.catalog.set_state(policy, 2, "retired")
    stray = folder_of(await store_adapter(blobs, adapter(policy, 50), export_id="wave_stray"))
    made = reconciler(store, blobs)
    for _ in ROOTS:
        await made.record_next_root()
    before = await keys(blobs)
    used = {refs[3].digest}

    wanted = [("revision", "p@3"), ("revision", "p@6"), ("bytes", "p@2"), ("folder", stray)]
    planned = await collect(store, blobs, used=used, dry_run=True)
    assert planned == wanted
    assert await keys(blobs) == before
    assert await collect(store, blobs, used=used, dry_run=True) == planned
    assert await collect(store, blobs, used=used) == planned

    gone = {folder_of(refs[1].manifest), stray}
    assert await keys(blobs) == [key for key in before if key.rpartition("/")[0] not in gone]
    states = [
        revision.state for revision in await store.catalog.revisions(policy.policy_id, limit=9, after=0)
    ]
    assert [number for number, state in enumerate(states, 1) if state == "retired"] == [2, 3, 6]
    retired = [event.number for event in await store.events() if isinstance(event, RevisionRetired)]
    assert sorted(retired) == [2, 3, 6]

    assert await collect(store, blobs, used=used) == [("bytes", "p@3"), ("bytes", "p@6")]
    assert await collect(store, blobs, used=used) == []
    left = {folder_of(refs[number - 1].manifest) for number in (1, 4, 5, 7)}
    assert {key.rpartition("/")[0] for key in await keys(blobs)} == left
    await read_all(store, blobs)
    assert await faults(store, policy) == [None, *["collected"] * 2, None, None, "collected", None]


async def test_nothing_goes_before_the_grace_time(store: Store) -> None:
    policy, blobs = await add_policy(store), MemoryBlobs()
    await publish(store, policy, blobs, 3)
    await store.catalog.set_state(policy, 1, "retired")
    assert await collect(store, blobs, dry_run=True, grace_seconds=2_000_000) == []
    assert await collect(store, blobs, dry_run=True) == [("bytes", "p@1")]


async def test_removal_that_was_broken_off_is_finished_by_the_next_collection(store: Store) -> None:
    policy, blobs = await add_policy(store), MemoryBlobs()
    refs = await publish(store, policy, blobs, 3)
    await store.catalog.set_state(policy, 1, "retired")
    assert await store.integrity.release_bytes(policy, 1)
    await blobs.delete(refs[0].manifest.uri)
    assert await collect(store, blobs) == []
    assert not [key for key in await keys(blobs) if key.startswith(folder_of(refs[0].manifest))]
    assert await store.integrity.folders_to_remove(limit=9) == []


class Slow(Instant):
    """A time of which every look takes a third of a collection's."""

    def monotonic(self) -> float:
        self._now += SECONDS / 3
        return self._now


@pytest.mark.parametrize("limit", [100, 4])
async def test_collection_goes_on_where_the_last_one_ran_out_of_time_or_room(
    store: Store, limit: int
) -> None:
    blobs, rounds, found = MemoryBlobs(), 0, list[str]()
    for name in "abcdefghi":
        policy = await add_policy(store, name)
        await publish(store, policy, blobs, 3)
        for number in (1, 2):
            await store.catalog.set_state(policy, number, "retired")
    made = Collector(
        catalog=store.catalog, integrity=store.integrity, blobs=blobs, clock=Slow(SOON), grace_seconds=0.0
    )
    more = True
    while more:
        report = await made.collect(used=frozenset(), dry_run=False, limit=limit)
        assert len(report.items) <= limit
        found += [item.what for item in report.items]
        more, rounds = report.more, rounds + 1
    assert sorted(found) == [f"{name}@{number}" for name in "abcdefghi" for number in (1, 2)]
    assert rounds > 2
    assert (await made.collect(used=frozenset(), dry_run=True, limit=limit)).items == ()


async def test_second_collection_at_a_time_is_refused(store: Store) -> None:
    async with store.integrity.exclusive("collect"):
        with pytest.raises(Unavailable, match="another collection"):
            await collect(store, MemoryBlobs())
