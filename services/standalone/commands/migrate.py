"""`mint migrate`: a service's tables, made or brought up to date before it starts."""

import asyncio
import os
from typing import Annotated, Literal

import typer

from mint_common.runtime.postgres import migrate as migrate_schema
from mint_common.runtime.postgres import open_pool
from mint_common.settings import Block, PostgresSettings, read_settings

ServiceName = Literal["gateway", "loader", "registry", "rollout", "trainer"]


class MigrationSettings(Block):
    """What the command reads."""

    postgres: PostgresSettings


def migrate(
    service: Annotated[ServiceName, typer.Argument(help="Service whose tables are migrated.")],
) -> None:
    """Migrate a service's tables to this version, as the service does when it starts.

    MINT_POSTGRES_DSN, or the file that MINT_POSTGRES_DSN_FILE names, gives the database and the service's
    role.

    Example: mint migrate registry
    """
    settings = read_settings(MigrationSettings, os.environ, service="migrate")
    asyncio.run(_migrate(settings.postgres.dsn, service))
    typer.echo(f"the tables of the service {service} are up to date")


async def _migrate(dsn: str, service: str) -> None:
    pool = await open_pool(dsn, schema=service, max_size=1)
    try:
        await migrate_schema(pool, schema=service, package=f"services.{service}.adapters.migrations")
    finally:
        await pool.close()
