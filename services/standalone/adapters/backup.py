"""Backup of a stack to a folder and restore from it: the database as pg_dump writes it, then the blobs.

Invariants: the database is one consistent snapshot, and every blob that it names is in the folder: states of
training, which the trainer removes when it has newer ones, because they are copied before that snapshot is
dumped, and others because blobs are only added and are copied after it, but for files that tenants delete
meanwhile, and what ended jobs made of rows. A backup is complete or absent, a database whole or empty. What
is written is its owner's alone, as it has secrets in the clear.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import asyncpg
import msgspec

from mint_client.core.refusals import LocalFailureError
from mint_common.claims import Claim
from mint_common.errors import AlreadyExists, MintError, NotFound, Unavailable
from mint_common.new_folder import new_folder
from mint_common.runtime.postgres import refusing_login
from services.standalone.adapters.file_modes import OTHERS
from services.standalone.adapters.postgres import wheel_binaries
from services.standalone.core.plan import SERVICES

DUMP, BLOBS = "database.dump", "blobs"
PAUSE = b"""
DO $$ BEGIN
    IF to_regclass('gateway.webhooks') IS NOT NULL THEN
        UPDATE gateway.webhooks SET state = 'paused', reason = 'restored from a backup: mint webhook resume'
        WHERE state = 'active';
    END IF;
END $$;
"""
NAMED_BY_TRAINER = """
    SELECT snapshot ->> 'uri' AS uri, NULL::bytea AS packed, last_operation_at AS changed_at
    FROM trainer.training WHERE snapshot IS NOT NULL
    UNION ALL SELECT claim ->> 'uri', NULL, created_at FROM trainer.checkpoints
    UNION ALL SELECT NULL, payload, submitted_at FROM trainer.operations
    WHERE payload_is_claim AND payload IS NOT NULL
    UNION ALL SELECT NULL, result, finished_at FROM trainer.operations
    WHERE result_is_claim AND result IS NOT NULL
    ORDER BY changed_at DESC
"""
_OVERTAKEN = "states of training are replaced faster than they are copied"
_ATTEMPTS = 20
"""Maximum attempts; each copies only what was added since the previous one."""


class BackupExposed(MintError):
    """A backup in {folder} would be readable by all users: its file system has no permissions."""


class DatabaseInUse(AlreadyExists):
    """The database has a schema {name!r} already: restore to a new --dir, or to an empty database."""


def back_up(dsn: str, blobs: Path, target: Path) -> int:
    """Write a backup to a new folder; return how many blobs are in it.

    Raises AlreadyExists, BackupExposed, SettingInvalid, Unavailable and LocalFailureError.
    """
    with new_folder(target, mode=0o700) as draft:
        if draft.stat().st_mode & OTHERS:
            raise BackupExposed(folder=str(target.parent))
        (draft / BLOBS).mkdir(mode=0o700)
        asyncio.run(_dump_with_states(dsn, blobs, draft))
        return copy_blobs(blobs, draft / BLOBS)


def restore(source: Path, dsn: str, blobs: Path) -> int:
    """Fill an empty database and a blob folder from a backup; return how many blobs.

    Blobs are restored first, so the database never names a missing one. Webhooks are paused in the same
    transaction: the copy sends nothing until they are resumed. Raises NotFound, DatabaseInUse,
    SettingInvalid, Unavailable and LocalFailureError.
    """
    if not (source / DUMP).is_file():
        raise NotFound(kind="backup", name=str(source))
    found = asyncio.run(_schemas(dsn))
    if found:
        raise DatabaseInUse(name=found[0])
    count = copy_blobs(source / BLOBS, blobs)
    _restore_database(source / DUMP, dsn)
    return count


async def _dump_with_states(dsn: str, blobs: Path, draft: Path) -> None:
    """Dump the database, and copy what the trainer's rows in the dump name.

    Raises Unavailable, SettingInvalid and LocalFailureError.

    If a blob is removed between reading the rows and copying it, the rows are read again. A blob that two
    reads name and neither finds was lost before.
    """
    missed: set[str] = set()
    copied: set[str] = set()
    async with _session(dsn) as connection:
        for _ in range(_ATTEMPTS):
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
                named = await _named_by_trainer(connection)
                found = {key for key in named if copy_blob(blobs / key, draft / BLOBS / key)}
                copied |= found
                if missed.issuperset(missing := set(named) - found):
                    for key in copied.difference(named):
                        (draft / BLOBS / key).unlink()
                    await asyncio.to_thread(dump_database, dsn, draft / DUMP, snapshot=snapshot)
                    return
                missed |= missing
    raise LocalFailureError(what="the backup", problem=_OVERTAKEN)


async def _named_by_trainer(connection: asyncpg.Connection) -> Sequence[str]:
    """Return the keys of the blobs that the trainer's rows name, the most short-lived first."""
    if await connection.fetchval("SELECT to_regclass('trainer.training')") is None:
        return []
    rows = await connection.fetch(NAMED_BY_TRAINER)
    return [row["uri"] or msgspec.msgpack.decode(row["packed"], type=Claim).uri for row in rows]


def dump_database(dsn: str, file: Path, *, snapshot: str | None = None) -> None:
    """Write the services' schemas at an exported snapshot to a file in pg_dump's custom format."""
    file.touch(mode=0o600)
    chosen = [f"--schema={name}" for name in SERVICES]
    if snapshot is not None:
        chosen.append(f"--snapshot={snapshot}")
    _run("pg_dump", dsn, "--format=custom", "--no-owner", *chosen, "-f", str(file))


def copy_blobs(source: Path, target: Path) -> int:
    """Copy the missing files; return the number of all files."""
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    return sum(copy_blob(file, target / file.relative_to(source)) for file in _files(source))


def copy_blob(file: Path, place: Path) -> bool:
    """Copy a file atomically and synced, unless it exists; return whether it exists then.

    It does not if the source was removed meanwhile.
    """
    if place.exists():
        return True
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = place.with_name(f".{place.name}.copy")
    draft.touch(mode=0o600)
    try:
        shutil.copyfile(file, draft)
    except FileNotFoundError:
        draft.unlink()
        return False
    with draft.open("rb") as written:
        os.fsync(written.fileno())
    draft.rename(place)
    return True


def _files(folder: Path) -> Iterator[Path]:
    """Yield stored files; a file being written has a name that no key can have."""
    if folder.is_dir():
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith((".", "~")):
                yield path


async def _schemas(dsn: str) -> list[str]:
    query = "SELECT schema_name FROM information_schema.schemata WHERE schema_name = ANY ($1) ORDER BY 1"
    async with _session(dsn) as connection:
        return [row["schema_name"] for row in await connection.fetch(query, SERVICES)]


@contextlib.asynccontextmanager
async def _session(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Yield a session of the database.

    Raises SettingInvalid when the login is refused, and Unavailable when the session or a query fails.
    """
    try:
        connection = await _connected(dsn)
        try:
            yield connection
        finally:
            await connection.close()
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Unavailable(what="Postgres", problem=str(error)) from error


async def _connected(dsn: str) -> asyncpg.Connection:
    try:
        with refusing_login():
            return await asyncpg.connect(dsn)
    except OSError as error:
        raise Unavailable(what="Postgres", problem=str(error)) from error


def _restore_database(dump: Path, dsn: str) -> None:
    """Restore a dump with its webhooks paused, in one transaction. Raises LocalFailureError.

    psql commits at the end of its input, which a pg_restore that fails never reaches.
    """
    options = (
        "--no-psqlrc",
        "--quiet",
        "--single-transaction",
        "--set=ON_ERROR_STOP=1",
        "--output=/dev/null",
    )
    psql, environ = _client("psql", dsn, *options)
    reading = [str(wheel_binaries() / "pg_restore"), "--no-owner", "--file=-", str(dump)]
    with tempfile.TemporaryFile() as problems:
        with (
            subprocess.Popen(reading, stdout=subprocess.PIPE, stderr=problems) as reader,
            subprocess.Popen(psql, stdin=subprocess.PIPE, stderr=problems, env=environ) as writer,
        ):
            assert reader.stdout is not None, "a pipe"
            assert writer.stdin is not None, "a pipe"
            with contextlib.suppress(BrokenPipeError):  # psql has ended and reports why
                shutil.copyfileobj(reader.stdout, writer.stdin)
                if reader.wait() == 0:
                    writer.stdin.write(PAUSE)
                else:
                    writer.kill()
                writer.stdin.close()
            reader.stdout.close()
        problems.seek(0)
        if reader.returncode or writer.returncode:
            text = problems.read().decode(errors="replace").strip()[-500:]
            raise LocalFailureError(what="psql" if writer.returncode > 0 else "pg_restore", problem=text)


def _run(program: str, dsn: str, *arguments: str) -> None:
    """Run a Postgres client and wait for it. Raises LocalFailureError."""
    command, environ = _client(program, dsn, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if done.returncode != 0:
        raise LocalFailureError(what=program, problem=done.stderr.strip()[-500:])


def _client(program: str, dsn: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Return a client's command and its environment, which has the password and is private."""
    parts = urlsplit(dsn)
    address = parts._replace(netloc=f"{parts.username or ''}@{parts.netloc.rpartition('@')[2]}").geturl()
    command = [str(wheel_binaries() / program), *arguments, "-d", address]
    return command, {**os.environ, "PGPASSWORD": unquote(parts.password or "")}
