"""Numbered SQL files, each run once, in order, in its own transaction.

Invariants: a file that ran never changes (its hash is stored and checked); two processes that start together
run each file once.
"""

import hashlib
import importlib.resources
import re
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from mint_common.errors import SettingInvalid
from mint_common.runtime.postgres_errors import translating_errors

LEDGER_PACKAGE = "mint_common.runtime.migrations"
MIGRATION_SECONDS = 600.0

_FILE = re.compile(r"\d{4}_[a-z0-9_]+\.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file of a package."""

    package: str
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Return the hash that shows whether a file was edited after it ran."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


async def migrate(pool: asyncpg.Pool, *, schema: str, package: str) -> None:
    """Make the schema, the ledger's tables and those of the package's ``NNNN_name.sql`` files.

    Raises SettingInvalid when a file that ran before has changed or the role may not, and Unavailable.
    """
    migrations = (*read_migrations(LEDGER_PACKAGE), *read_migrations(package))
    try:
        with translating_errors():
            async with pool.acquire() as connection:
                await _migrate(connection, schema, migrations)
    except asyncpg.InsufficientPrivilegeError as error:
        raise _role_refused(schema, str(error)) from error


async def _migrate(
    connection: asyncpg.pool.PoolConnectionProxy, schema: str, migrations: Sequence[Migration]
) -> None:
    await connection.execute(
        "SELECT pg_advisory_lock(hashtextextended($1, 0))",
        f"mint-migrate-{schema}",
        timeout=MIGRATION_SECONDS,
    )
    # IF NOT EXISTS asks for the right to make schemas, which a role that was given its schema need not have.
    may_create = await connection.fetchval(
        "SELECT has_schema_privilege(nspname, 'CREATE') FROM pg_namespace WHERE nspname = $1", schema
    )
    if may_create is None:
        await connection.execute(f'CREATE SCHEMA "{schema}"')
    elif not may_create:
        raise _role_refused(schema, "the schema is another role's")
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS mint_migrations (package text, name text, sha256 text NOT NULL,"
        " run_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (package, name))"
    )
    # Releasing the connection to the pool lets go of the lock, whatever happens here.
    for migration in migrations:
        await _run_once(connection, migration)


def _role_refused(schema: str, problem: str) -> SettingInvalid:
    advice = f"give the role of {schema}, which deploy/postgres/roles.sh makes and hands the tables to"
    return SettingInvalid(name="MINT_POSTGRES_DSN", problem=f"{problem}; {advice}")


def read_migrations(package: str) -> Sequence[Migration]:
    """Return the migrations of a package in order."""
    files = [file for file in importlib.resources.files(package).iterdir() if _FILE.fullmatch(file.name)]
    return [
        Migration(package=package, name=file.name, sql=file.read_text(encoding="utf-8"))
        for file in sorted(files, key=lambda file: file.name)
    ]


async def _run_once(connection: asyncpg.pool.PoolConnectionProxy, migration: Migration) -> None:
    found = await connection.fetchval(
        "SELECT sha256 FROM mint_migrations WHERE package = $1 AND name = $2",
        migration.package,
        migration.name,
    )
    if found == migration.sha256:
        return
    if found is not None:
        problem = "the file has changed since it ran; add a new one instead"
        raise SettingInvalid(name=f"migration {migration.package}/{migration.name}", problem=problem)
    async with connection.transaction():
        await connection.execute(migration.sql, timeout=MIGRATION_SECONDS)
        await connection.execute(
            "INSERT INTO mint_migrations (package, name, sha256) VALUES ($1, $2, $3)",
            migration.package,
            migration.name,
            migration.sha256,
        )
