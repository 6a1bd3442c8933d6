"""A stack's truth in a folder, and a stack made of it: the database as pg_dump has it, then the blobs.

Invariants: the database is one consistent snapshot, and every blob that it names is in the folder, because
blobs are only added and are copied after it; a backup is complete or absent, a database whole or empty; what
is written is its owner's alone, as it has secrets in the clear.
"""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import asyncpg

from mint_common.errors import AlreadyExists, MintError, NotFound, Unavailable
from services.standalone.adapters.file_modes import OTHERS
from services.standalone.adapters.postgres import wheel_binaries

DUMP, BLOBS = "database.dump", "blobs"
PAUSE = """
UPDATE gateway.webhooks SET state = 'paused', reason = 'restored from a backup: mint webhook resume'
WHERE state = 'active'
"""
SCHEMAS = ("gateway", "loader", "registry", "rollout", "trainer")


class BackupExposed(MintError):
    """A backup in {folder} could be read by every user of this machine: its file system keeps no modes."""

    code = "backup_exposed"
    http_status = 422


def back_up(dsn: str, blobs: Path, target: Path) -> int:
    """Write a backup to a new folder; return how many blobs are in it.

    Raises AlreadyExists, BackupExposed and Unavailable.
    """
    if target.exists():
        raise AlreadyExists(kind="folder", name=str(target))
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    draft.mkdir(mode=0o700, parents=True)
    try:
        if draft.stat().st_mode & OTHERS:
            raise BackupExposed(folder=str(target.parent))
        dump_database(dsn, draft / DUMP)
        count = copy_blobs(blobs, draft / BLOBS)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return count


def restore(source: Path, dsn: str, blobs: Path) -> int:
    """Fill an empty database and a blob folder from a backup; return how many blobs.

    Blobs come first: what the database names is there when it is. The copy tells nobody of its events until
    its webhooks are resumed. Raises NotFound, AlreadyExists and Unavailable.
    """
    if not (source / DUMP).is_file():
        raise NotFound(kind="backup", name=str(source))
    found = asyncio.run(_schemas(dsn))
    if found:
        raise AlreadyExists(kind="database schema", name=found[0])
    count = copy_blobs(source / BLOBS, blobs)
    _run("pg_restore", dsn, "--exit-on-error", "--single-transaction", "--no-owner", str(source / DUMP))
    asyncio.run(_pause_webhooks(dsn))
    return count


def dump_database(dsn: str, file: Path) -> None:
    """Write the services' schemas to a file in pg_dump's own format."""
    file.touch(mode=0o600)
    chosen = [f"--schema={name}" for name in SCHEMAS]
    _run("pg_dump", dsn, "--format=custom", "--no-owner", *chosen, "-f", str(file))


def copy_blobs(source: Path, target: Path) -> int:
    """Copy what is not there yet, each file at once and synced; return how many files there are."""
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    count = 0
    for file in _files(source):
        place = target / file.relative_to(source)
        if not place.exists():
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = place.with_name(f".{place.name}.copy")
            draft.touch(mode=0o600)
            shutil.copyfile(file, draft)
            with draft.open("rb") as written:
                os.fsync(written.fileno())
            draft.rename(place)
        count += 1
    return count


def _files(folder: Path) -> Iterator[Path]:
    """Yield stored files; what is being written has a name that no key has."""
    if folder.is_dir():
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith((".", "~")):
                yield path


def takes_connections(dsn: str) -> bool:
    """Return whether a database is there."""
    try:
        asyncio.run(_schemas(dsn))
    except (OSError, asyncpg.PostgresError):
        return False
    return True


async def _schemas(dsn: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        query = "SELECT schema_name FROM information_schema.schemata WHERE schema_name = ANY ($1) ORDER BY 1"
        return [row["schema_name"] for row in await connection.fetch(query, SCHEMAS)]
    finally:
        await connection.close()


async def _pause_webhooks(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        if await connection.fetchval("SELECT to_regclass('gateway.webhooks')") is not None:
            await connection.execute(PAUSE)
    finally:
        await connection.close()


def _run(program: str, dsn: str, *arguments: str) -> None:
    """Run a client of Postgres; the password goes through its environment, where no other user sees it."""
    parts = urlsplit(dsn)
    command = [str(wheel_binaries() / program), *arguments]
    environ = {**os.environ, "PGPASSWORD": unquote(parts.password or "")}
    address = parts._replace(netloc=f"{parts.username or ''}@{parts.netloc.rpartition('@')[2]}").geturl()
    done = subprocess.run([*command, "-d", address], capture_output=True, text=True, check=False, env=environ)
    if done.returncode != 0:
        raise Unavailable(what=program, problem=done.stderr.strip()[-500:])
