"""Services have roles of their own in Postgres, as compose makes them, and read no table of each other."""

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from mint_common.runtime.postgres import migrate, open_pool
from services.standalone.adapters.backup import dump_database
from services.standalone.adapters.launch import free_port
from services.standalone.adapters.postgres import wheel_binaries
from services.standalone.core.plan import SERVICES
from tests.own_servers import RunningServer, make_postgres
from tests.processes import ServiceProcess

ROOT = Path(__file__).parents[2]
STARTED = ("registry", "rollout", "gateway")
"""Started here; `make test-compose` starts the others too, under the same roles."""
KEY = "tml-operator-of-the-tests"
OWNERS = """
    SELECT pg_get_userbyid(owner) FROM (
        SELECT nspname, nspowner FROM pg_namespace
        UNION ALL SELECT nspname, relowner FROM pg_class JOIN pg_namespace ON relnamespace = pg_namespace.oid
        UNION ALL SELECT nspname, proowner FROM pg_proc JOIN pg_namespace ON pronamespace = pg_namespace.oid
        UNION ALL SELECT nspname, typowner FROM pg_type JOIN pg_namespace ON typnamespace = pg_namespace.oid
    ) AS made (schema, owner) WHERE schema = $1
"""


@pytest.fixture(scope="module", params=["new", "older"])
def logins(
    request: pytest.FixtureRequest, server_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, str]]:
    """The services' connection strings: of a new database, or of one whose tables a superuser made before."""
    server = make_postgres(server_folder / f"roles-{request.param}")
    server.start()
    try:
        if request.param == "older":
            asyncio.run(_migrate(dict.fromkeys(SERVICES, server.address)))
        made = _give_roles(server, tmp_path_factory.mktemp("secrets"))
        asyncio.run(_migrate(made))
        # Again, with other passwords, as after a restored backup.
        folder = tmp_path_factory.mktemp("secrets")
        made = _give_roles(server, folder)
        for service in SERVICES:
            done = _mint_migrate(service, folder / f"postgres_dsn_{service}")
            assert done.returncode == 0, done.stderr
        yield made
    finally:
        server.stop()


@pytest.fixture(scope="module")
def server(server_folder: Path) -> Iterator[RunningServer]:
    """A server whose database has nothing yet."""
    server = make_postgres(server_folder / "roles-none")
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _give_roles(server: RunningServer, folder: Path) -> Mapping[str, str]:
    """Make secrets and roles; return the services' connection strings."""
    place = server.address.rpartition("@")[2]
    logins = {name: f"postgresql://mint_{name}:{secrets.token_hex()}@{place}" for name in SERVICES}
    done = _run_script(server.address, logins, folder)
    assert (done.returncode, done.stderr) == (0, "")
    return logins


def _address(server: RunningServer, login: str | None, database: str) -> str:
    """Return the address of another database of the server, for the superuser or for another login."""
    parts = urlsplit(server.address)
    place = parts.netloc if login is None else f"{login}@{parts.hostname}:{parts.port}"
    return f"postgresql://{place}/{database}"


def _run_script(
    superuser: str, logins: Mapping[str, str], folder: Path
) -> "subprocess.CompletedProcess[str]":
    for service, login in logins.items():
        (folder / f"postgres_dsn_{service}").write_text(f"{login}\n")
    address = urlsplit(superuser)
    environ = {
        **os.environ,
        "PATH": f"{wheel_binaries()}:{os.environ['PATH']}",
        "SECRETS": str(folder),
        "PGHOST": address.hostname or "",
        "PGPORT": str(address.port),
        "PGUSER": address.username or "",
        "PGPASSWORD": address.password or "",
        "PGDATABASE": address.path[1:],
    }
    script = [str(ROOT / "deploy/postgres/roles.sh")]
    return subprocess.run(script, env=environ, capture_output=True, text=True, check=False)


def _mint_migrate(service: str, login: Path) -> "subprocess.CompletedProcess[str]":
    own = {name: value for name, value in os.environ.items() if not name.startswith("MINT_")}
    command = [sys.executable, "-m", "mint_launcher", "migrate", service]
    environ = {**own, "MINT_POSTGRES_DSN_FILE": str(login)}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


async def _execute(address: str, *statements: str) -> None:
    connection = await asyncpg.connect(address)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _migrate(logins: Mapping[str, str]) -> None:
    for service, login in logins.items():
        pool = await open_pool(login, schema=service)
        try:
            await migrate(pool, schema=service, package=f"services.{service}.adapters.migrations")
        finally:
            await pool.close()


@pytest.mark.parametrize(
    ("login", "problem"),
    [
        ("postgresql://mint@db:5432/mint", "no user and password"),
        ("postgresql://mint:@db/mint", "no user and password"),
        ("postgresql://:secret@db/mint", "no user and password"),
        ("postgresql://db:5432/mint", "no user and password"),
        ("postgresql://db:5432/mint?user=a@b", "no user and password"),
        ("postgresql://mint:pass%40word@db/mint", "% and @"),
        ("postgresql://mint:pass@word@db/mint", "% and @"),
    ],
)
def test_a_connection_string_without_a_plain_login_is_refused(
    tmp_path: Path, login: str, problem: str
) -> None:
    done = _run_script("postgresql://nobody:none@127.0.0.1:1/none", {"gateway": login}, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"postgres_dsn_gateway: {problem}")
    assert done.stderr.count("\n") == 1


async def test_a_role_that_reads_every_table_is_refused(server: RunningServer, tmp_path: Path) -> None:
    connection = await asyncpg.connect(server.address)
    try:
        powers = ("superuser", "createrole", "bypassrls")
        for power in powers:
            await connection.execute(f"CREATE ROLE a_{power} {power} LOGIN")
        for name in ("mint", *(f"a_{power}" for power in powers)):
            logins = {"gateway": f"postgresql://{name}:other@db/mint"}
            done = await asyncio.to_thread(_run_script, server.address, logins, tmp_path)
            assert done.returncode != 0
            assert f"the role {name} may read every table" in done.stderr
        assert await connection.fetch("SELECT FROM pg_namespace WHERE nspname = 'gateway'") == []
    finally:
        await connection.close()
    # The superuser has its password still.
    await (await asyncpg.connect(server.address)).close()


def test_one_role_of_two_services_is_refused(server: RunningServer, tmp_path: Path) -> None:
    logins = dict.fromkeys(SERVICES, "postgresql://mint_shared:secret@db/mint")
    done = _run_script(server.address, logins, tmp_path)
    assert (done.returncode, done.stderr) == (1, "postgres_dsn_loader: another service has its user\n")


async def test_the_owner_of_a_database_gives_roles_without_being_superuser(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _execute(
        server.address,
        "CREATE ROLE the_owner LOGIN CREATEROLE PASSWORD 'secret'",
        "CREATE DATABASE owned OWNER the_owner",
    )
    owner = _address(server, "the_owner:secret", "owned")
    monkeypatch.setenv("PGOPTIONS", "-c createrole_self_grant=set,inherit")
    for _ in range(2):
        logins = {name: f"postgresql://own_{name}:secret@db/owned" for name in SERVICES}
        done = await asyncio.to_thread(_run_script, owner, logins, tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    await _migrate({name: _address(server, f"own_{name}:secret", "owned") for name in SERVICES})


async def test_a_role_that_may_read_what_is_another_s_is_told(server: RunningServer, tmp_path: Path) -> None:
    logins = {name: f"postgresql://pure_{name}:secret@db/granted" for name in SERVICES}
    address = _address(server, None, "granted")

    async def given() -> "subprocess.CompletedProcess[str]":
        return await asyncio.to_thread(_run_script, address, logins, tmp_path)

    await _execute(server.address, "CREATE DATABASE granted", "CREATE ROLE between")
    assert (await given()).returncode == 0
    connection = await asyncpg.connect(address)
    try:
        for right, to, problem in (
            ("pure_gateway", "pure_loader", "as a member of pure_gateway"),
            ("pure_gateway", "pure_loader WITH INHERIT FALSE", "as a member of pure_gateway"),
            ("pg_read_all_data", "pure_loader", "as a member of pg_read_all_data"),
            ("USAGE ON SCHEMA gateway", "pure_loader", "revoke its rights there"),
            ("USAGE ON SCHEMA gateway", "PUBLIC", "or those of PUBLIC"),
        ):
            await connection.execute(f"GRANT {right} TO {to}")
            done = await given()
            assert done.returncode != 0, right
            assert "the role pure_loader may use the schema gateway" in done.stderr
            assert problem in done.stderr
            await connection.execute(f"REVOKE {right} FROM {to.partition(' ')[0]}")
        await connection.execute("GRANT pure_gateway TO between")
        await connection.execute("GRANT between TO pure_loader")
        assert "the role pure_loader may use the schema gateway as a member of" in (await given()).stderr
        await connection.execute("REVOKE between FROM pure_loader")
    finally:
        await connection.close()
    done = await given()
    assert (done.returncode, done.stderr) == (0, "")


async def test_no_other_role_connects_and_no_log_has_a_password(
    server: RunningServer, tmp_path: Path
) -> None:
    await _execute(
        server.address,
        "CREATE ROLE another LOGIN PASSWORD 'secret'",
        "CREATE DATABASE closed",
        "ALTER DATABASE closed SET log_statement = 'all'",
    )
    logins = {name: f"postgresql://mint_{name}:unlogged@db/closed" for name in SERVICES}
    done = await asyncio.to_thread(_run_script, _address(server, None, "closed"), logins, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for database"):
        await asyncpg.connect(_address(server, "another:secret", "closed"))
    log = server.log.read_text()
    assert "log_statement" in log
    assert "unlogged" not in log


async def test_a_dump_is_restored_where_the_roles_are(server: RunningServer, tmp_path: Path) -> None:
    await _execute(server.address, "CREATE DATABASE dumped", "CREATE DATABASE restored")
    source, target = (_address(server, None, name) for name in ("dumped", "restored"))
    await _migrate(dict.fromkeys(SERVICES, source))
    dump = tmp_path / "dump"
    await asyncio.to_thread(dump_database, source, dump)
    logins = {name: f"postgresql://mint_{name}:secret@db/restored" for name in SERVICES}
    done = await asyncio.to_thread(_run_script, target, logins, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")

    options = ("--single-transaction", "--no-owner", "--clean", "--if-exists")
    command = [str(wheel_binaries() / "pg_restore"), *options, f"--dbname={target}", str(dump)]
    restored = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert (restored.returncode, restored.stderr) == (0, "")
    done = await asyncio.to_thread(_run_script, target, logins, tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    for service in SERVICES:
        connection = await asyncpg.connect(_address(server, f"mint_{service}:secret", "restored"))
        try:
            owners = await connection.fetch(OWNERS, service)
            assert {owner[0] for owner in owners} == {f"mint_{service}"}
        finally:
            await connection.close()


@pytest.mark.parametrize("reader", SERVICES)
async def test_a_role_reads_its_own_tables_alone(logins: Mapping[str, str], reader: str) -> None:
    connection = await asyncpg.connect(logins[reader])
    try:
        for owner in SERVICES:
            tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", owner)
            assert {"mint_migrations", "mint_outbox"} < {table["tablename"] for table in tables}
            for table in tables:
                reading = f'SELECT count(*) FROM "{owner}"."{table["tablename"]}"'
                if owner == reader:
                    await connection.fetchval(reading)
                    continue
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match=f"for schema {owner}"):
                    await connection.fetchval(reading)
    finally:
        await connection.close()


@pytest.mark.parametrize("service", SERVICES)
async def test_a_role_has_its_schema_and_no_other_right(logins: Mapping[str, str], service: str) -> None:
    connection = await asyncpg.connect(logins[service])
    try:
        owners = await connection.fetch(OWNERS, service)
        assert {owner[0] for owner in owners} == {f"mint_{service}"}
        rights = "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls"
        assert not await connection.fetchval(f"{rights} FROM pg_roles WHERE rolname = current_user")
        memberships = "SELECT FROM pg_auth_members WHERE member = to_regrole(current_user)"
        assert await connection.fetch(memberships) == []
        makes = ("SCHEMA another", "TABLE public.another ()", "TEMPORARY TABLE another ()")
        for forbidden in (f"CREATE {one}" for one in makes):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(forbidden)
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("mint_registry:", "mint_registry:x"), 'password authentication failed for user "mint_registry"'),
        (("mint_registry:", "mint_nobody:"), 'password authentication failed for user "mint_nobody"'),
        (("/postgres?", "/none?"), 'database "none" does not exist'),
        (None, "the schema is another role's; give the role of registry"),
    ],
)
def test_a_login_that_cannot_migrate_is_told_in_a_sentence(
    logins: Mapping[str, str], tmp_path: Path, change: tuple[str, str] | None, problem: str
) -> None:
    login = f"{logins['registry']}?".replace(*change) if change else logins["gateway"]
    (tmp_path / "login").write_text(login)
    done = _mint_migrate("registry", tmp_path / "login")
    assert done.returncode == 1
    assert done.stderr.startswith(f"mint: Setting MINT_POSTGRES_DSN: {problem}")
    assert done.stderr.count("\n") == 1


def test_services_work_under_their_roles(
    logins: Mapping[str, str], own_nats: RunningServer, tmp_path: Path
) -> None:
    ports = {service: free_port() for service in STARTED}
    shared = {
        "MINT_NATS_URL": own_nats.address,
        "MINT_BLOBS_URL": f"file://{tmp_path / 'blobs'}",
        "MINT_INTERNAL_TOKEN": "between-services",
        "MINT_PEERS_REGISTRY_URL": f"http://127.0.0.1:{ports['registry']}",
        "MINT_PEERS_ROLLOUT_URL": f"http://127.0.0.1:{ports['rollout']}",
        "MINT_REGISTRY_BOOTSTRAP_KEY": KEY,
        **{f"MINT_{service.upper()}_HTTP_PORT": str(port) for service, port in ports.items()},
    }
    with ExitStack() as stack:
        for service in STARTED:
            environ = {**shared, "MINT_POSTGRES_DSN": logins[service]}
            process = ServiceProcess(name=service, environ=environ, log=tmp_path / f"{service}.log")
            stack.callback(process.stop)
            process.start()
        headers = {"authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=process.url, headers=headers, timeout=60) as client:
            body = {"name": "of-the-test", "scopes": ["read"]}
            assert client.post("/mint/v1/keys", json=body).status_code == 201
            for path in ("/mint/v1/policies", "/mint/v1/jobs", "/mint/v1/tasks", "/mint/v1/audit"):
                assert client.get(path).status_code == 200
