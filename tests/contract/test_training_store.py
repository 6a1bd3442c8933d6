"""Operations and sessions as the trainer stores them: once, fenced, all or nothing."""

from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec
import pytest
from contract.training_rig import (
    BASE,
    CLAIM,
    EARLIER,
    HOLDER,
    LATER,
    LORA,
    NOW,
    OTHER,
    TENANT,
    A,
    B,
    Store,
    done,
    filled,
    new,
    open_store,
)

from mint_common.claims import Claim
from mint_common.errors import AlreadyExists, MintError, NotFound
from mint_common.ids import Digest, PolicyId
from mint_common.training import (
    UNNUMBERED,
    CheckpointRecord,
    CheckpointRef,
    OperationConflict,
    SessionClosed,
    cursor_of,
)
from services.trainer.core.operations import (
    ExportLineage,
    Fenced,
    Packed,
    Snapshot,
    StoredOperation,
)
from tests.testing.factories import make_claim

pytestmark = pytest.mark.integration


@pytest.fixture
async def store(shared_database: str) -> AsyncIterator[Store]:
    async with open_store(shared_database) as made:
        yield made


def record(name: str, *, claim: Claim = CLAIM, **changes: object) -> CheckpointRecord:
    made = CheckpointRecord(
        policy_id=A,
        tenant_id=TENANT,
        kind="training",
        name=name,
        base=BASE,
        lora=LORA,
        step=1,
        claim=claim,
        revision=None,
        created_at=NOW,
        expires_at=None,
        is_public=False,
        metadata={"note": "x"},
    )
    return msgspec.structs.replace(made, **changes)


def ref(name: str, policy_id: PolicyId = A) -> CheckpointRef:
    return CheckpointRef(policy_id, "training", name)


async def test_an_operation_is_stored_once(store: Store) -> None:
    await filled(store, 3)
    outcomes = await store.operations.add(HOLDER, [new(1), new(3), new(2, payload="other"), new(0)])
    assert outcomes[:2] == [False, True]
    assert isinstance(outcomes[2], OperationConflict)
    assert outcomes[3] is False
    assert [one.seq for one in await store.operations.unfinished([A, B])] == [0, 1, 2, 3]


async def test_of_operations_that_come_together_for_one_place_the_first_has_it(store: Store) -> None:
    await filled(store, 1)
    outcomes = await store.operations.add(
        HOLDER, [new(1, tenant_id=OTHER), new(1), new(1, payload="other"), new(1), new(2)]
    )
    kinds = [type(one) if isinstance(one, MintError) else one for one in outcomes]
    assert kinds == [NotFound, True, OperationConflict, False, True]
    stored = await store.operations.unfinished([A, B])
    assert [one.payload.data for one in stored[1:]] == [b"operation 1", b"operation 2"]


async def test_what_its_client_did_not_number_is_found_in_the_order_of_arrival(store: Store) -> None:
    await filled(store, 2)
    number = UNNUMBERED + 9
    for at, seq in enumerate((number, 2), 1):
        await store.operations.add(HOLDER, [replace(new(seq), submitted_at=NOW + at)])
    assert [one.seq for one in await store.operations.unfinished([A, B])] == [0, 1, number, 2]
    await store.operations.finish(HOLDER, [done(0), done(number, 2)])
    session = await store.operations.session(A)
    assert session is not None
    assert session.next_seq == 1


async def test_an_operation_needs_a_session_of_its_tenant_that_is_open(store: Store) -> None:
    await filled(store, 1)
    await store.operations.finish(HOLDER, [replace(done(0), closes=True)])
    outcomes = await store.operations.add(
        HOLDER, [new(1, tenant_id=OTHER), new(1, policy_id=B), new(1), new(0), new(0, tenant_id=OTHER)]
    )
    kinds = [type(one) if isinstance(one, MintError) else one for one in outcomes]
    assert kinds == [NotFound, NotFound, SessionClosed, False, NotFound]


async def test_results_move_the_session_on(store: Store) -> None:
    await filled(store, 4)
    await filled_b(store)
    assert await store.operations.result(A, 1) is None
    finished = [done(0), done(2, 2, step=1), done(0, policy_id=B), done(1, 3, step=2)]
    assert await store.operations.finish(HOLDER, finished) == []
    assert await store.operations.result(A, 1) == Packed(data=b"result 1")
    session = await store.operations.session(A)
    assert session is not None
    assert (session.step, session.position, session.next_seq, session.lora) == (2, 3, 3, LORA)
    assert (session.last_operation_at, session.snapshot) == (NOW + 1, None)
    assert [(one.policy_id, one.seq) for one in await store.operations.unfinished([A, B])] == [(A, 3)]
    assert (await store.operations.payload(A, 3)).data == b"operation 3"
    with pytest.raises(NotFound):
        await store.operations.result(A, 9)


async def test_what_waits_is_read_without_its_bytes_but_for_small_ones(store: Store) -> None:
    await filled(store, 1)
    claim = msgspec.msgpack.encode(Claim(uri="training/a", sha256="0" * 64, size_bytes=1 << 24))
    large, claimed = Packed(data=bytes(200_000)), Packed(data=claim, is_claim=True)
    await store.operations.add(HOLDER, [replace(new(1), payload=large), replace(new(2), payload=claimed)])
    small, whole, blob = await store.operations.unfinished([A, B])
    assert (small.payload, small.size_bytes) == (Packed(data=b"operation 0"), len("operation 0"))
    assert (whole.payload, whole.size_bytes) == (None, 200_000)
    assert (blob.payload, blob.size_bytes) == (claimed, 1 << 24)
    assert await store.operations.payload(A, 1) == large


async def filled_b(store: Store) -> None:
    assert await store.operations.add(HOLDER, [new(0, policy_id=B)]) == [True]


async def test_what_was_executed_is_replayed_in_the_order_of_execution(store: Store) -> None:
    await filled(store, 4)
    refused = replace(done(3, 2), is_refused=True)
    await store.operations.finish(HOLDER, [done(0), refused, done(1, 3), done(2, 4)])
    replayed = await store.operations.executed_after(A, 1)
    assert replayed == [
        StoredOperation(
            policy_id=A,
            seq=seq,
            tenant_id=TENANT,
            payload=Packed(data=f"operation {seq}".encode()),
            size_bytes=len("operation 1"),
            position=position,
            is_refused=seq == 3,
        )
        for position, seq in ((2, 3), (3, 1), (4, 2))
    ]


async def test_a_fenced_trainer_commits_nothing(store: Store) -> None:
    await filled(store, 2)
    await store.operations.finish(HOLDER, [done(0)])
    await store.fence(LATER)
    for arrived in (new(2), new(0, policy_id=B)):
        with pytest.raises(Fenced):
            await store.operations.add(HOLDER, [arrived])
    for finished in (done(1), replace(done(1), checkpoint=record("one"))):
        with pytest.raises(Fenced):
            await store.operations.finish(HOLDER, [finished])
    with pytest.raises(Fenced):
        await store.operations.put_snapshot(HOLDER, Snapshot(policy_id=A, position=1, claim=CLAIM))
    assert [one.seq for one in await store.operations.unfinished([A, B])] == [1]
    assert await store.operations.session(B) is None
    session = await store.operations.session(A)
    assert session is not None
    assert (session.position, session.snapshot) == (1, None)
    with pytest.raises(NotFound):
        await store.rows.get(ref("one"), now=NOW)


async def test_a_snapshot_forgets_the_payloads_that_it_covers(store: Store) -> None:
    big = Packed(data=msgspec.msgpack.encode(make_claim("training/policy_a/big")), is_claim=True)
    await filled(store, 1)
    await store.operations.add(HOLDER, [replace(new(1), payload=big), new(2), new(3)])
    await store.operations.finish(HOLDER, [done(seq) for seq in range(4)])
    first, second = make_claim("first"), make_claim("second")
    unused = await store.operations.put_snapshot(HOLDER, Snapshot(policy_id=A, position=3, claim=first))
    assert unused == [make_claim("training/policy_a/big")]
    assert [one.seq for one in await store.operations.executed_after(A, 0)] == [3]
    # One that comes late is of no use any more.
    late = await store.operations.put_snapshot(HOLDER, Snapshot(policy_id=A, position=2, claim=second))
    assert late == [second]
    unused = await store.operations.put_snapshot(HOLDER, Snapshot(policy_id=A, position=4, claim=second))
    assert unused == [first]
    session = await store.operations.session(A)
    assert session is not None
    assert (session.snapshot, session.snapshot_position) == (second, 4)


async def test_a_close_gives_snapshot_and_payloads_back(store: Store) -> None:
    await filled(store, 3)
    await store.operations.finish(HOLDER, [done(0), done(1)])
    await store.operations.put_snapshot(HOLDER, Snapshot(policy_id=A, position=2, claim=CLAIM))
    assert await store.operations.finish(HOLDER, [replace(done(2), closes=True)]) == [CLAIM]
    assert await store.operations.executed_after(A, 0) == []
    late = Snapshot(policy_id=A, position=3, claim=make_claim("late"))
    assert await store.operations.put_snapshot(HOLDER, late) == [late.claim], "it was copied meanwhile"
    session = await store.operations.session(A)
    assert session is not None
    assert (session.snapshot, session.closed_at) == (None, NOW + 2)


async def test_a_taken_name_undoes_the_whole_commit(store: Store) -> None:
    await filled(store, 3)
    await store.operations.finish(HOLDER, [done(0), replace(done(1), checkpoint=record("one"))])
    with pytest.raises(AlreadyExists):
        await store.operations.finish(HOLDER, [replace(done(2), checkpoint=record("one"))])
    assert await store.operations.result(A, 2) is None
    other = make_claim("other")
    replacing = replace(done(2), checkpoint=record("one", claim=other), replaces=True)
    assert await store.operations.finish(HOLDER, [replacing]) == [CLAIM]
    assert (await store.rows.get(ref("one"), now=NOW)).claim == other


async def test_an_export_moves_the_lineage(store: Store) -> None:
    await filled(store, 1)
    lineage = ExportLineage(digest=Digest("sha256:b"), parent=Digest("sha256:a"))
    await store.operations.finish(HOLDER, [replace(done(0), lineage=lineage)])
    session = await store.operations.session(A)
    assert session is not None
    assert (session.digest, session.parent) == (lineage.digest, lineage.parent)


async def test_revisions_are_held_by_open_sessions_and_by_checkpoints(store: Store) -> None:
    await filled(store, 3)
    digests = [Digest(f"sha256:{name}") for name in "abc"]
    lineage = ExportLineage(digest=digests[1], parent=digests[0])
    named = record("one", kind="sampler", revision=digests[2], expires_at=NOW + 5)
    await store.operations.finish(HOLDER, [replace(done(0), lineage=lineage), done(1)])
    await store.operations.finish(HOLDER, [replace(done(2), checkpoint=named)])
    assert await store.operations.held_revisions(now=NOW) == digests
    assert await store.operations.held_revisions(now=NOW, after=digests[0], limit=1) == digests[1:2]
    assert sorted(await store.operations.held_revisions(now=NOW + 5)) == digests[:2]
    await store.operations.add(HOLDER, [new(3)])
    await store.operations.finish(HOLDER, [replace(done(3), closes=True)])
    assert await store.operations.held_revisions(now=NOW) == [digests[2]]


async def test_old_results_are_forgotten_but_their_operations_known(store: Store) -> None:
    big = Packed(data=msgspec.msgpack.encode(CLAIM), is_claim=True)
    await filled(store, 3)
    await store.operations.finish(HOLDER, [done(0), replace(done(1), result=big), done(2)])
    assert await store.operations.forget_results(before=NOW + 2, limit=10) == (2, [CLAIM])
    for seq in (0, 1):
        with pytest.raises(NotFound):
            await store.operations.result(A, seq)
    assert await store.operations.result(A, 2) is not None
    assert await store.operations.add(HOLDER, [new(1)]) == [False]


async def test_operations_go_with_a_session_that_was_closed_long_ago(store: Store) -> None:
    await filled(store, 3)
    await store.operations.finish(HOLDER, [done(0), done(1)])
    await store.operations.forget_results(before=NOW + 9, limit=10)
    await store.operations.prune(before=NOW + 99)
    assert await store.operations.add(HOLDER, [new(1)]) == [False], "the session is open"
    await store.operations.finish(HOLDER, [replace(done(2), closes=True)])
    await store.operations.prune(before=NOW - 99)
    assert await count(store) == 3
    await store.operations.prune(before=NOW + 99)
    assert await count(store) == 1, "the result of the last can be asked for"
    await store.operations.forget_results(before=NOW + 9, limit=10)
    await store.operations.prune(before=NOW + 99)
    assert await count(store) == 0


async def count(store: Store) -> int:
    found: int = await store.operations._pool.fetchval("SELECT count(*) FROM operations")
    return found


async def put(store: Store, *records: CheckpointRecord) -> None:
    """Store checkpoints as saves do."""
    session = await store.operations.session(A)
    if session is None:
        await filled(store, 1)
        await store.operations.finish(HOLDER, [done(0)])
    taken = session.next_seq if session else 1
    for seq, one in enumerate(records, taken):
        await store.operations.add(HOLDER, [new(seq)])
        await store.operations.finish(HOLDER, [replace(done(seq), checkpoint=one)])


async def test_a_column_of_a_later_version_gets_its_default(store: Store) -> None:
    await store.pool.execute("ALTER TABLE checkpoints ADD COLUMN later text NOT NULL DEFAULT 'as before'")
    await put(store, record("one"))
    assert await store.rows.get(ref("one"), now=NOW) == record("one")


async def test_checkpoints_are_paged_newest_first(store: Store) -> None:
    records = [record(f"c{n}", created_at=NOW + n % 3, claim=make_claim(f"c{n}")) for n in range(7)]
    await put(store, *records)
    whole = await store.rows.page(TENANT, policy_id=None, limit=100, after=None, now=NOW)
    assert {one.name for one in whole} == {one.name for one in records}
    assert [one.created_at for one in whole] == sorted((one.created_at for one in records), reverse=True)
    pages: list[CheckpointRecord] = []
    after = None
    while page := await store.rows.page(TENANT, policy_id=A, limit=2, after=after, now=NOW):
        pages += page
        after = cursor_of(page[-1])
    assert pages == whole
    assert await store.rows.page(OTHER, policy_id=None, limit=9, after=None, now=NOW) == []
    assert await store.rows.page(TENANT, policy_id=B, limit=9, after=None, now=NOW) == []


async def test_what_has_expired_is_as_good_as_deleted(store: Store) -> None:
    await put(store, record("short", expires_at=NOW + 5), record("long", claim=make_claim("long")))
    assert await store.rows.delete_expired(now=NOW + 4, limit=10) == []
    assert (await store.rows.get(ref("short"), now=NOW + 4)).expires_at == NOW + 5
    with pytest.raises(NotFound):
        await store.rows.get(ref("short"), now=NOW + 5)
    with pytest.raises(NotFound):
        await store.rows.expire(ref("short"), expires_at=None, now=NOW + 5)
    assert [
        one.name for one in await store.rows.page(TENANT, policy_id=A, limit=9, after=None, now=NOW + 5)
    ] == ["long"]
    assert await store.rows.delete_expired(now=NOW + 5, limit=10) == [CLAIM]
    assert (await store.rows.expire(ref("long"), expires_at=NOW + 9, now=NOW)).expires_at == NOW + 9


async def test_the_name_of_what_has_expired_is_free(store: Store) -> None:
    await put(store, record("one", expires_at=NOW + 5))
    await put(store, record("one", claim=make_claim("new"), created_at=NOW + 6))
    assert (await store.rows.get(ref("one"), now=NOW + 6)).claim == make_claim("new")


async def test_a_copy_shares_the_bytes_until_the_last_row_goes(store: Store) -> None:
    await put(store, record("one"))

    async def copy(name: str, *, now: float) -> CheckpointRecord:
        return await store.rows.copy(ref(name), ref("two", B), tenant_id=OTHER, expires_at=NOW + 99, now=now)

    with pytest.raises(NotFound):
        await copy("one", now=NOW + 1)
    await store.rows.publish(ref("one"), is_public=True, now=NOW)
    copied = await copy("one", now=NOW + 1)
    expected = record(
        "two", policy_id=B, tenant_id=OTHER, created_at=NOW + 1, expires_at=NOW + 99, is_public=False
    )
    assert copied == expected == await store.rows.get(ref("two", B), now=NOW + 1)
    assert await copy("one", now=NOW + 2) == copied
    await put(store, record("other", claim=make_claim("other")))
    await store.rows.publish(ref("other"), is_public=True, now=NOW)
    with pytest.raises(AlreadyExists):
        await copy("other", now=NOW + 1)
    with pytest.raises(NotFound):
        await copy("none", now=NOW + 1)
    assert await store.rows.delete(ref("one"), now=NOW + 1) == []
    assert await store.rows.delete(ref("two", B), now=NOW + 1) == [CLAIM]
    with pytest.raises(NotFound):
        await store.rows.delete(ref("two", B), now=NOW + 1)


async def test_a_revision_s_bytes_are_never_called_unused(store: Store) -> None:
    sampler = CheckpointRef(A, "sampler", "one")
    await put(store, record("one", kind="sampler", revision=Digest("sha256:a")))
    assert await store.rows.delete(sampler, now=NOW) == []


async def test_a_checkpoint_is_published_and_withdrawn(store: Store) -> None:
    await put(store, record("one"))
    assert (await store.rows.publish(ref("one"), is_public=True, now=NOW)).is_public
    assert not (await store.rows.publish(ref("one"), is_public=False, now=NOW)).is_public


async def test_attempts_are_counted_until_an_operation_is_finished(store: Store) -> None:
    await filled(store, 3)
    await store.operations.count_attempts(HOLDER, [(A, 1), (A, 2)])
    await store.operations.count_attempts(HOLDER, [(A, 1)])
    await store.operations.take_back_attempts([(A, 2), (A, 2)])
    assert [one.attempts for one in await store.operations.unfinished([A, B])] == [0, 2, 0]
    with pytest.raises(Fenced):
        await store.operations.count_attempts(EARLIER, [(A, 1)])
    await store.operations.finish(HOLDER, [done(0), done(1)])
    await store.operations.count_attempts(HOLDER, [(A, 1)])
    (one, two) = await store.operations.executed_after(A, 0)
    assert (one.seq, two.seq) == (0, 1)
