"""Files: equal bytes are one blob, deleted bytes are gone, a killed process leaves nothing half done."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from contract.files_rig import MINE, OTHERS, ROWS, draft, keep, keep_in_parts, keeper
from contract.schemas import empty_schema

from mint_common.blobs.localfs import LocalBlobs
from mint_common.datasets import Repeats
from mint_common.errors import BlobMissing, InvalidField, NotFound
from mint_common.job_errors import DatasetRefused, FilesFull, UploadClosed
from mint_common.runtime.clock import SystemClock
from services.rollout.adapters.rows_check import RowsCheckProcess
from services.rollout.core.files.records import UPLOAD_SECONDS
from services.rollout.handlers.file_uploads import UploadKeeper
from services.rollout.handlers.files import FileKeeper
from tests.testing.clock import ManualClock

pytestmark = pytest.mark.integration

OPTIONS = ("files", "blobs", "spool", "rows", "clock", "max_file_bytes", "tenant_bytes")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs")


@pytest.fixture
async def uploads(shared_database: str, blobs, clock, tmp_path: Path) -> AsyncIterator[UploadKeeper]:
    async with (
        empty_schema(shared_database, "rollout") as pool,
        keeper(pool, blobs, tmp_path, clock) as made,
    ):
        yield made


@pytest.fixture
def files(uploads: UploadKeeper) -> FileKeeper:
    return uploads.keeper


async def stored(blobs: LocalBlobs) -> list[str]:
    """Return the keys of all stored bytes."""
    return [key for prefix in ("files/", "file-parts/") async for key in blobs.list(prefix)]


async def content(files: FileKeeper, file_id: str) -> bytes:
    return b"".join([part async for part in files.read(await files.get(MINE, file_id))])


async def ids(files: FileKeeper, tenant=MINE, **asked) -> list[str]:
    asked = {"purpose": None, "order": "desc", "after": None, "limit": 10, **asked}
    return [file.file_id for file in await files.files.page(tenant, **asked)]


async def test_a_file_is_kept_as_it_came(files, blobs) -> None:
    file = await keep(files, ROWS)
    assert await content(files, file.file_id) == ROWS
    assert await files.get(MINE, file.file_id) == file
    assert (file.format, file.rows, file.repeats, file.size_bytes) == ("text", 2, 0, len(ROWS))
    other = await keep(files, b"\0 not rows", draft(purpose="user_data"))
    assert (other.format, other.rows) == (None, None)


async def test_bad_rows_and_no_bytes_are_refused_and_leave_nothing(files, blobs) -> None:
    with pytest.raises(DatasetRefused) as refused:
        await keep(files, ROWS + b"{}")
    assert (refused.value.line, refused.value.count) == (3, 1)
    with pytest.raises(InvalidField, match="has no bytes"):
        await keep(files, b"", draft(purpose="evals"))
    assert (await ids(files), await stored(blobs)) == ([], [])


async def test_lists_are_paged_by_age(files, clock) -> None:
    made = []
    for purpose in ("evals", "fine-tune", "evals"):
        made.append((await keep(files, ROWS, draft(purpose=purpose))).file_id)
        await clock.advance(0.001)
    assert await ids(files, order="asc") == made
    assert await ids(files, limit=2) == made[:0:-1]
    assert await ids(files, after=made[1]) == made[:1]
    assert await ids(files, after=made[0], order="asc", purpose="evals") == made[2:]
    await files.remove(MINE, made[1])
    assert await ids(files, after=made[1]) == made[:1], "a page goes on behind what is gone"
    with pytest.raises(NotFound):
        await ids(files, after="file-unknown")
    for after in (None, made[0], made[2]):
        assert await ids(files, tenant=OTHERS, after=after) == []


async def test_files_of_one_moment_are_paged_too(files) -> None:
    made = {(await keep(files, ROWS)).file_id for _ in range(3)}
    (first,) = await ids(files, limit=1)
    assert {first, *await ids(files, after=first)} == made


async def test_a_file_that_is_stored_slowly_is_behind_all_that_was_listed_meanwhile(
    files, blobs, clock, monkeypatch
) -> None:
    put_file, arrived, goes_on = blobs.put_file, asyncio.Event(), asyncio.Event()

    async def put_slowly(key: str, path: Path) -> object:
        arrived.set()
        await goes_on.wait()
        return await put_file(key, path)

    monkeypatch.setattr(blobs, "put_file", put_slowly)
    keeping = asyncio.create_task(keep(files, ROWS))
    await arrived.wait()
    await clock.advance(5)
    monkeypatch.undo()
    elsewhere = FileKeeper(**{name: getattr(files, name) for name in OPTIONS})  # another gateway
    listed = (await keep(elsewhere, ROWS * 2)).file_id
    await clock.advance(1)
    goes_on.set()
    slow = (await keeping).file_id
    assert await ids(files, order="asc", after=listed) == [slow]


async def test_rows_of_two_files_are_compared_once_for_each_tenant(files, monkeypatch) -> None:
    compare, compared = RowsCheckProcess.shared, []

    async def compare_noting(self, *parts, validation_bytes: int) -> Repeats:
        compared.append(validation_bytes)
        return await compare(self, *parts, validation_bytes=validation_bytes)

    monkeypatch.setattr(RowsCheckProcess, "shared", compare_noting)
    for tenant in (MINE, OTHERS):
        pair = [await keep(files, data, draft(tenant)) for data in (ROWS, ROWS[14:])]
        at_once = await asyncio.gather(*(files.shared_rows(*pair) for _ in range(3)))
        assert {*at_once, await files.shared_rows(*pair)} == {Repeats(count=1, pairs=((1, 2),))}
    assert compared == [len(ROWS[14:])] * 2
    await files.shared_rows(*reversed(pair))
    assert len(compared) == 3


async def test_equal_bytes_of_two_tenants_are_stored_once_and_go_with_the_last(files, blobs) -> None:
    mine, theirs = await keep(files, ROWS), await keep(files, ROWS, draft(OTHERS))
    assert len(await stored(blobs)) == 1
    for tenant, file in ((OTHERS, mine), (MINE, theirs)):
        with pytest.raises(NotFound):
            await files.get(tenant, file.file_id)
        with pytest.raises(NotFound):
            await files.remove(tenant, file.file_id)
    await files.remove(OTHERS, theirs.file_id)
    assert await content(files, mine.file_id) == ROWS
    await files.remove(MINE, mine.file_id)
    assert await stored(blobs) == []
    with pytest.raises(BlobMissing):
        [part async for part in files.read(mine)]


async def test_rows_are_read_from_a_line_on_and_not_of_a_file_that_is_removed_meanwhile(files) -> None:
    file = await keep(files, b"\n" + ROWS)
    assert [row.line for row in await files.read_rows(file, first_line=1, count=1)] == [2]
    assert [row.line for row in await files.read_rows(file, first_line=3, count=2)] == [3]
    await files.remove(MINE, file.file_id)
    with pytest.raises(NotFound):
        await files.read_rows(file, first_line=1, count=1)


async def test_a_tenant_has_room_of_its_own(files, blobs, uploads) -> None:
    await keep(files, b"x" * 600, draft(purpose="evals"))
    with pytest.raises(FilesFull):
        await files.check_room(MINE, 401)
    with pytest.raises(FilesFull):
        await keep(files, b"y" * 401, draft(purpose="evals"))
    assert len(await stored(blobs)) == 1, "what was refused is erased"
    await keep(files, b"y" * 600, draft(OTHERS, purpose="evals"))
    upload = await uploads.create(draft(), size_bytes=400, mime_type="")
    with pytest.raises(FilesFull):
        await keep(files, b"y", draft(purpose="evals"))
    await uploads.cancel(MINE, upload.upload_id)
    await keep(files, b"y" * 400, draft(purpose="evals"))


async def test_files_sent_at_once_never_take_more_than_there_is_room_for(files) -> None:
    sent = [keep(files, bytes([number]) * 300, draft(purpose="evals")) for number in range(6)]
    done = await asyncio.gather(*sent, return_exceptions=True)
    assert sum(not isinstance(each, FilesFull) for each in done) == 3
    assert await files.files.room(MINE) == (900, 3)


async def test_equal_bytes_kept_and_removed_at_once_are_whole_or_gone(files, blobs) -> None:
    async def keep_and_remove(number: int) -> None:
        for _ in range(5):
            file = await keep(files, ROWS, draft(purpose="evals"))
            assert await content(files, file.file_id) == ROWS
            await files.remove(MINE, file.file_id)

    await asyncio.gather(*(keep_and_remove(number) for number in range(4)))
    await files.sweep()
    assert await stored(blobs) == []


async def test_a_file_past_its_time_is_not_there_and_its_bytes_go(files, blobs, clock) -> None:
    file = await keep(files, ROWS, draft(expires=3600))
    await clock.advance(3599)
    assert await ids(files) == [file.file_id]
    await clock.advance(1)
    with pytest.raises(NotFound):
        await files.get(MINE, file.file_id)
    assert (await ids(files), await files.files.room(MINE)) == ([], (0, 0))
    assert len(await stored(blobs)) == 1
    assert await files.files.expired() == [(MINE, file.file_id)]
    await files.remove(MINE, file.file_id, is_expired=True)
    assert await stored(blobs) == []


async def test_what_is_not_past_its_time_is_not_removed_as_if_it_were(files) -> None:
    for file in (await keep(files, ROWS), await keep(files, ROWS, draft(expires=3600))):
        with pytest.raises(NotFound):
            await files.remove(MINE, file.file_id, is_expired=True)
        assert await content(files, file.file_id) == ROWS


async def test_parts_make_a_file_and_go(files, uploads, blobs) -> None:
    file = await keep_in_parts(uploads, ROWS[:7], ROWS[7:9], ROWS[9:])
    assert await content(files, file.file_id) == ROWS
    assert await stored(blobs) == [file.claim.uri]


async def test_what_a_repeated_request_makes_is_there_already(files, uploads, blobs) -> None:
    said = replace(draft(), cause="req_a")
    file = await keep(files, ROWS, said)
    assert await keep(files, ROWS, said) == file
    with pytest.raises(InvalidField, match="other bytes"):
        await keep(files, ROWS * 2, said)
    assert await ids(files) == [file.file_id]
    made = await uploads.create(said, size_bytes=len(ROWS), mime_type="application/jsonl")
    assert await uploads.create(said, size_bytes=len(ROWS), mime_type="application/jsonl") == made
    parts = []
    for cause in ("req_b", "req_b", "req_c"):
        async with files.spool.open(MINE) as sink:
            await sink.write(ROWS)
            parts.append(await uploads.add_part(made, await sink.finish(), cause=cause))
    assert parts[0] == parts[1] != parts[2]
    _, whole = await uploads.complete(MINE, made.upload_id, [parts[0].part_id], md5=None)
    assert await content(files, whole.file_id) == ROWS
    assert whole.file_id != file.file_id


async def test_an_upload_with_a_wrong_sum_stays_open(uploads, blobs) -> None:
    upload = await uploads.create(draft(), size_bytes=len(ROWS), mime_type="")
    async with uploads.keeper.spool.open(MINE) as sink:
        await sink.write(ROWS)
        part = await uploads.add_part(upload, await sink.finish())
    with pytest.raises(InvalidField, match="md5"):
        await uploads.complete(MINE, upload.upload_id, [part.part_id], md5="0" * 32)
    with pytest.raises(NotFound):
        await uploads.complete(OTHERS, upload.upload_id, [part.part_id], md5=None)
    done, file = await uploads.complete(MINE, upload.upload_id, [part.part_id], md5=None)
    assert (done.status, done.file_id) == ("completed", file.file_id)
    assert await uploads.complete(MINE, upload.upload_id, [part.part_id], md5=None) == (done, file)
    with pytest.raises(UploadClosed, match="completed"):
        await uploads.cancel(MINE, upload.upload_id)


async def test_an_upload_completed_twice_at_once_is_one_file(uploads) -> None:
    upload = await uploads.create(draft(purpose="evals"), size_bytes=3, mime_type="")
    async with uploads.keeper.spool.open(MINE) as sink:
        await sink.write(b"abc")
        part = await uploads.add_part(upload, await sink.finish())
    tries = [uploads.complete(MINE, upload.upload_id, [part.part_id], md5=None) for _ in range(3)]
    done = await asyncio.gather(*tries)
    (file_id,) = await ids(uploads.keeper)
    assert [(upload.status, file.file_id) for upload, file in done] == [("completed", file_id)] * 3


async def test_no_more_parts_than_were_announced(uploads) -> None:
    upload = await uploads.create(draft(), size_bytes=10, mime_type="")
    async with uploads.keeper.spool.open(MINE) as sink:
        await sink.write(b"x" * 10)
        spooled = await sink.finish()
        for _ in range(2):  # a part may be sent again
            await uploads.add_part(upload, spooled)
        with pytest.raises(InvalidField, match="announced were 10 bytes"):
            await uploads.add_part(upload, spooled)
    for size_bytes in (0, -1, 601):
        with pytest.raises(InvalidField):
            await uploads.create(draft(), size_bytes=size_bytes, mime_type="")


async def test_an_upload_past_its_time_is_expired_and_its_parts_go(uploads, blobs, clock) -> None:
    upload = await uploads.create(draft(), size_bytes=3, mime_type="")
    async with uploads.keeper.spool.open(MINE) as sink:
        await sink.write(b"abc")
        spooled = await sink.finish()
        await uploads.add_part(upload, spooled)
        await clock.advance(UPLOAD_SECONDS)
        with pytest.raises(UploadClosed, match="expired"):
            await uploads.pending(MINE, upload.upload_id)
        await uploads.sweep()
        with pytest.raises(UploadClosed):
            await uploads.add_part(upload, spooled)
    assert await stored(blobs) == []
    await clock.advance(UPLOAD_SECONDS + 1)
    await uploads.sweep()
    with pytest.raises(NotFound):
        await uploads.pending(MINE, upload.upload_id)


async def test_parts_take_room_until_they_are_erased(uploads, clock) -> None:
    upload = await uploads.create(draft(), size_bytes=300, mime_type="")
    async with uploads.keeper.spool.open(MINE) as sink:
        await sink.write(b"x" * 300)
        spooled = await sink.finish()
        await uploads.add_part(upload, spooled)
        assert await uploads.keeper.files.room(MINE) == (300, 1)
        await uploads.add_part(upload, spooled)
        assert await uploads.keeper.files.room(MINE) == (600, 1)
    other = await uploads.create(draft(), size_bytes=300, mime_type="")
    async with uploads.keeper.spool.open(MINE) as sink:
        await sink.write(b"x" * 300)
        spooled = await sink.finish()
        await uploads.add_part(other, spooled)
        with pytest.raises(FilesFull):
            await uploads.add_part(other, spooled)
    await uploads.cancel(MINE, other.upload_id)
    assert await uploads.keeper.files.room(MINE) == (600, 1)
    await clock.advance(UPLOAD_SECONDS)
    assert await uploads.keeper.files.room(MINE) == (600, 0)
    await uploads.sweep()
    assert await uploads.keeper.files.room(MINE) == (0, 0)


async def test_a_part_that_is_stored_after_its_upload_ended_is_erased(uploads, blobs, monkeypatch) -> None:
    upload = await uploads.create(draft(), size_bytes=3, mime_type="")
    put_file = LocalBlobs.put_file

    async def slow_put(self, key: str, path: Path):
        await uploads.cancel(MINE, upload.upload_id)
        return await put_file(self, key, path)

    monkeypatch.setattr(LocalBlobs, "put_file", slow_put)
    async with uploads.keeper.spool.open(MINE) as sink:
        await sink.write(b"abc")
        with pytest.raises(UploadClosed):
            await uploads.add_part(upload, await sink.finish())
    assert await stored(blobs) == []


@pytest.mark.parametrize(
    ("act", "point"),
    [
        ("keep", "before put"),
        ("keep", "after put"),
        ("remove", "before delete"),
        ("remove", "after delete"),
        ("parts", "before put"),
        ("parts", "after put"),
        ("parts", "before delete"),
    ],
)
async def test_whatever_is_killed_nothing_is_half_done(shared_database, blobs, tmp_path, act, point) -> None:
    async with empty_schema(shared_database, "rollout") as pool:
        command = [sys.executable, "-m", "contract.files_rig", shared_database, str(tmp_path), act, point]
        tests = Path(__file__).parents[1]
        killed = await asyncio.to_thread(subprocess.run, command, cwd=tests, check=False, capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        clock = ManualClock(SystemClock().now())
        async with keeper(pool, blobs, tmp_path, clock) as uploads:
            left = [path for path in tmp_path.glob("mint-spool-*/*") if path.name != "lock"]
            assert left == [], "its spool is removed"
            found = await ids(uploads.keeper)
            assert len(found) == (point == "before delete" and act == "parts")
            for file_id in found:
                assert await content(uploads.keeper, file_id) == ROWS
            await uploads.keeper.sweep()
            async with asyncio.timeout(60):
                # Postgres may not have seen the end of the killed process, whose lock a sweep passes over.
                while await uploads.keeper.files.unused(limit=1):
                    await asyncio.sleep(0.05)
                    await uploads.keeper.sweep()
            await clock.advance(2 * UPLOAD_SECONDS + 1)
            await uploads.sweep()
            assert await stored(blobs) == [(await uploads.keeper.get(MINE, each)).claim.uri for each in found]
            again = await keep(uploads.keeper, ROWS)
            assert await content(uploads.keeper, again.file_id) == ROWS
