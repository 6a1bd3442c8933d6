"""What a gateway of the version before stored is rollout's after an upgrade, and its own after a rollback."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from types import SimpleNamespace

import asyncpg
import httpx
import msgspec
import pytest

from mint_common.claims import Claim
from mint_common.datasets import Format
from mint_common.errors import NotFound, PeerFailed, Unavailable
from mint_common.events import JobData, JobFile, JobSubmitted
from mint_common.ids import JobId, TenantId
from mint_common.runtime import migration
from mint_common.runtime.edge import create_http
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.migration import Migration, migrate, read_migrations
from mint_common.runtime.postgres import open_pool
from services.gateway.adapters.handover import Handover
from services.rollout.adapters.file_uploads_postgres import PostgresFileUploads
from services.rollout.adapters.files_postgres import PostgresFiles
from services.rollout.adapters.handover_postgres import PostgresHandover
from services.rollout.adapters.jobs_postgres import PostgresJobs
from services.rollout.adapters.tenant_jobs_postgres import PostgresTenantJobs
from services.rollout.core.job import open_job
from services.rollout.http import handover as handover_http
from tests.testing.clock import ManualClock
from tests.testing.factories import BASE, LORA, POLICY, SPEC

pytestmark = pytest.mark.integration

FIRST_MOVED = {"gateway": "0040", "rollout": "0020"}
"""The first migration of each service that the version before has not."""
MINE = TenantId("ten_mine")
SHA = "a" * 64
PROMOTE = {"alias": "prod", "at_least": None, "at_most": None, "asked_by": "ann", "key_id": "key_a"}
TOLD = {
    "model": "tiny",
    "suffix": None,
    "metadata": {"team": "a"},
    "method": "supervised",
    "hyperparameters": {"n_epochs": 3},
    "lora": asdict(LORA),
    "promote": {**PROMOTE, "is_admin": False, "ended_at": None, "problem": ""},
}
# As the gateway of the version before writes them: none names what this version adds.
ADD_FILE = """
    INSERT INTO files (file_id, tenant_id, filename, purpose, sha256, size_bytes, created_at, format, rows,
        repeats)
    VALUES ($1, $2, 'a.jsonl', 'fine-tune', $3, 28, $4, 'text', 2, 0)
"""
ADD_UPLOAD = """
    INSERT INTO file_uploads (upload_id, tenant_id, filename, purpose, size_bytes, mime_type, status,
        created_at, expires_at)
    VALUES ('upload_1', $1, 'b.jsonl', 'fine-tune', 10, 'application/jsonl', 'pending', 5.0, 1e12)
"""
ADD_PART = """
    INSERT INTO file_upload_parts (part_id, upload_id, sha256, size_bytes, created_at, is_stored)
    VALUES ('part_1', 'upload_1', 'b', 10, 6.0, true)
"""
ADD_SUBMISSION = """
    INSERT INTO submissions (job_id, policy_id, policy, base, spec, submitted_at, warnings, fine_tuning,
        tenant_id, file_ids)
    VALUES ($1, $2, 'mine', $3, $4, $5, '["look out"]', $6, $7, $8)
"""
ADD_JOB = """
    INSERT INTO jobs (job_id, tenant_id, base, policy_id, lora, spec, state, reason, steps_done, cause,
        created_at, progress_at)
    VALUES ($1, $2, $3, $4, $5, $6, 'running', '', 1, 'c', 100.5, 101.0)
"""


@dataclass
class Stack:
    """Both schemas, and a gateway that reaches rollout."""

    gateway: asyncpg.Pool
    rollout: asyncpg.Pool
    clock: ManualClock
    handover: Handover

    def __post_init__(self) -> None:
        self.files = PostgresFiles(self.rollout, self.clock)
        self.uploads = PostgresFileUploads(self.rollout, self.clock)
        self.jobs = PostgresTenantJobs(self.rollout, PostgresLedger(self.rollout, self.clock), self.clock)

    async def add_file(self, number: int) -> str:
        """Store a file as the version before does."""
        file_id = f"file-{number:014x}{'a' * 26}"
        statement = "INSERT INTO file_blobs (sha256) VALUES ($1) ON CONFLICT DO NOTHING"
        await self.gateway.execute(statement, SHA)
        await self.gateway.execute(ADD_FILE, file_id, MINE, SHA, number / 1e6)
        return file_id

    async def submit(self, name: str, file_id: str, *, is_taken: bool) -> JobSubmitted:
        """Store a job on a file as the version before does."""
        claim = Claim(uri=f"files/{SHA}", sha256=SHA, size_bytes=28)
        file = JobFile(file_id=file_id, filename="a.jsonl", content=claim, format=Format.TEXT, rows=2)
        data = JobData(training=file, epochs=3, on_long="refuse", grader=None, evaluation=None)
        event = JobSubmitted(
            tenant_id=MINE,
            base=BASE,
            job_id=JobId(name),
            policy_id=POLICY,
            lora=LORA,
            spec=replace(SPEC, algorithm="sft", task="", data=data),
        )
        row = msgspec.to_builtins(event.spec)
        await self.gateway.execute(ADD_SUBMISSION, name, POLICY, BASE, row, 100.0, TOLD, MINE, [file_id])
        if is_taken:
            await self.rollout.execute(ADD_JOB, name, MINE, BASE, POLICY, asdict(LORA), row)
        return event


class Rollout:
    """Rollout's routes over HTTP, without a network."""

    def __init__(self, pool: asyncpg.Pool, clock: ManualClock) -> None:
        self.is_old = False
        http = create_http(
            title="rollout", service="rollout", internal_token=None, ready=lambda: True, max_body_bytes=None
        )
        http.include_router(handover_http.router)
        http.state.parts = SimpleNamespace(handover=PostgresHandover(pool, clock))
        transport = httpx.ASGITransport(app=http, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://rollout")

    async def post(self, path: str, body: object) -> object:
        """Post JSON as the gateway does."""
        if self.is_old:
            raise NotFound(kind="route", name=path)
        sent = {"content-type": "application/json"}
        answer = await self._client.post(path, content=msgspec.json.encode(body), headers=sent)
        if answer.status_code == 500:
            raise PeerFailed(what="rollout", status=500)
        answer.raise_for_status()
        return answer.json()


@asynccontextmanager
async def version_before(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stack]:
    """Open the tables of the version before, with the clients of this one."""
    pools = {}
    for service, first in FIRST_MOVED.items():
        pools[service] = await open_pool(database, schema=service)

        def older(package: str, first: str = first) -> list[Migration]:
            is_own = package.startswith("services.")
            return [each for each in read_migrations(package) if not is_own or each.name < first]

        with monkeypatch.context() as patch:
            patch.setattr(migration, "read_migrations", older)
            await migrate(pools[service], schema=service, package=f"services.{service}.adapters.migrations")
    clock = ManualClock(1000.0)
    rollout = Rollout(pools["rollout"], clock)
    handover = Handover(pools["gateway"], rollout)
    try:
        yield Stack(gateway=pools["gateway"], rollout=pools["rollout"], clock=clock, handover=handover)
    finally:
        for pool in pools.values():
            await pool.close()


async def upgrade(stack: Stack) -> None:
    """Run this version's migrations."""
    for service, pool in (("rollout", stack.rollout), ("gateway", stack.gateway)):
        await migrate(pool, schema=service, package=f"services.{service}.adapters.migrations")


async def test_files_uploads_and_jobs_in_flight_are_rollout_s_after_an_upgrade(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with version_before(database, monkeypatch) as stack:
        first, second = await stack.add_file(1), await stack.add_file(2)
        await stack.gateway.execute(ADD_UPLOAD, MINE)
        await stack.gateway.execute(ADD_PART)
        await stack.submit("job_taken", first, is_taken=True)
        waiting = await stack.submit("job_waiting", second, is_taken=False)
        await upgrade(stack)
        with pytest.raises(Unavailable):
            stack.handover.check_done()
        await stack.handover.hand_over()
        stack.handover.check_done()

        page = await stack.files.page(MINE, purpose=None, order="asc", after=None, limit=10)
        assert [file.file_id for file in page] == [first, second]
        assert (page[0].format, page[0].rows, page[0].claim.uri) == (Format.TEXT, 2, f"files/{SHA}")
        assert (await stack.uploads.get(MINE, "upload_1")).status == "pending"
        assert [part.part_id for part in await stack.uploads.parts("upload_1", stored=True)] == ["part_1"]
        taken = await stack.jobs.on_file(MINE, JobId("job_taken"))
        assert (taken.policy, taken.warnings, taken.created_at) == ("mine", ("look out",), 100.0)
        assert (taken.steps_done, taken.fine_tuning.metadata) == (1, {"team": "a"})
        assert taken.fine_tuning.promote.state == "open"

        # Its event comes after the upgrade.
        async with stack.rollout.acquire() as connection:
            await PostgresJobs(stack.rollout).save(connection, open_job(waiting, now=1000.0), [])
        await stack.handover.hand_over()
        assert (await stack.jobs.on_file(MINE, waiting.job_id)).policy == "mine"


async def test_what_was_changed_since_is_not_changed_back(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with version_before(database, monkeypatch) as stack:
        gone, kept = await stack.add_file(1), await stack.add_file(2)
        await stack.submit("job_a", kept, is_taken=True)
        await upgrade(stack)
        await stack.handover.hand_over()
        await stack.jobs.end_promotion(JobId("job_a"), problem="")
        await stack.files.remove(MINE, gone)
        await stack.gateway.execute("UPDATE files SET is_moved = false")  # an answer was lost
        await stack.gateway.execute("UPDATE submissions SET is_moved = false")
        await stack.handover.hand_over()
        with pytest.raises(NotFound):
            await stack.files.get(MINE, gone)
        assert (await stack.files.get(MINE, kept)).file_id == kept
        job = await stack.jobs.on_file(MINE, JobId("job_a"))
        assert job.fine_tuning.promote.state == "moved"


async def test_the_version_before_goes_on_after_a_rollback_and_its_rows_come_with_the_next_upgrade(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with version_before(database, monkeypatch) as stack:
        first = await stack.add_file(1)
        await stack.submit("job_a", first, is_taken=True)
        await upgrade(stack)
        await stack.handover.hand_over()
        # Rolled back: what it stored is there, and it stores more.
        files = await stack.gateway.fetch("SELECT file_id FROM files WHERE tenant_id = $1", MINE)
        jobs = await stack.gateway.fetch("SELECT job_id FROM submissions WHERE fine_tuning IS NOT NULL")
        assert ([row["file_id"] for row in files], [row["job_id"] for row in jobs]) == ([first], ["job_a"])
        second = await stack.add_file(2)
        await stack.submit("job_b", second, is_taken=True)
        await stack.gateway.execute("DELETE FROM files WHERE file_id = $1", first)
        await stack.gateway.execute(
            "INSERT INTO removed_files (file_id, tenant_id) VALUES ($1, $2)", first, MINE
        )
        # Upgraded again.
        await stack.handover.hand_over()
        assert (await stack.files.get(MINE, second)).file_id == second
        with pytest.raises(NotFound):
            await stack.files.get(MINE, first)
        found = await stack.jobs.page_on_files(MINE, metadata={}, after=None, limit=9)
        assert {job.job_id for job in found} == {"job_a", "job_b"}


async def test_a_rollout_of_the_version_before_is_waited_for(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with version_before(database, monkeypatch) as stack:
        await stack.add_file(1)
        await upgrade(stack)
        stack.handover._rollout.is_old = True
        await stack.handover.hand_over()
        with pytest.raises(Unavailable):
            stack.handover.check_done()
        stack.handover._rollout.is_old = False
        await stack.handover.hand_over()
        stack.handover.check_done()


async def test_a_row_that_rollout_cannot_store_holds_up_no_other(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with version_before(database, monkeypatch) as stack:
        files = [await stack.add_file(number) for number in range(1, 6)]
        await upgrade(stack)
        await stack.rollout.execute(f"ALTER TABLE files ADD CHECK (file_id <> '{files[2]}')")
        await stack.handover.hand_over()
        stack.handover.check_done()

        page = await stack.files.page(MINE, purpose=None, order="asc", after=None, limit=10)
        assert [file.file_id for file in page] == [*files[:2], *files[3:]]
        left = await stack.gateway.fetch("SELECT file_id FROM files WHERE NOT is_moved")
        assert [row["file_id"] for row in left] == [files[2]]
