"""A host whose link is cut is silent: neither its locks nor its leadership outlive that for long."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from services.standalone.adapters.nats import nats_binary
from tests.fleet.hosts import Hosts, hosts_of, why_not
from tests.own_servers import make_postgres

_REASON = why_not()
pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(_REASON), reason=_REASON),
]
HERE = Path(__file__).parent
LIMIT_SECONDS = 15


@contextmanager
def running(*command: str, **options: object) -> Iterator["subprocess.Popen[str]"]:
    """Run a process that is killed in the end."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **{**pipes, **options})  # type: ignore[call-overload]  # its options
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def line_of(process: "subprocess.Popen[str]") -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


@pytest.fixture
def postgres_host(server_folder: Path) -> Iterator[tuple[Hosts, str]]:
    """Hosts, and the DSN of a Postgres server on one of them."""
    with hosts_of("pg", "a", "b") as hosts:
        server = make_postgres(server_folder / "cut-postgres")
        address = hosts.addresses["pg"]
        with (server.launch.folder / "data/pg_hba.conf").open("a") as rules:
            rules.write("host all all 10.77.0.0/24 scram-sha-256\n")
        argv = [
            part.replace("listen_addresses=127.0.0.1", "listen_addresses=*") for part in server.launch.argv
        ]
        server.launch = replace(
            server.launch,
            argv=tuple(hosts.on("pg", "setpriv", *as_user(server.launch.run_as), *argv)),
            run_as=None,
        )
        dsn = server.address.replace("127.0.0.1", address)
        with (
            server.log.open("ab") as log,
            running(*server.launch.argv, stdout=log, stderr=log, cwd=server.launch.folder),
        ):
            yield hosts, dsn


def as_user(user: object) -> list[str]:
    """Return the options of setpriv for the server's user."""
    return [f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_idle", [True, False])
def test_the_lock_of_a_host_that_vanished_is_free_within_seconds(
    postgres_host: tuple[Hosts, str], is_idle: bool
) -> None:
    """Idle: keepalives end the session. Cut while an answer is unacknowledged: `tcp_user_timeout` does."""
    hosts, dsn = postgres_host
    holder = (sys.executable, str(HERE / "holder.py"), dsn)
    with running(*hosts.on("a", *holder)) as first:
        assert line_of(first)[0] == "held"
        if is_idle:
            time.sleep(1)
        hosts.cut("a")
        cut_at = time.time()
        first.stdin.write("\n")  # type: ignore[union-attr]  # it has one
        first.stdin.flush()  # type: ignore[union-attr]
        with running(*hosts.on("b", *holder)) as second:
            assert float(line_of(second)[1]) - cut_at < LIMIT_SECONDS
        assert float(line_of(first)[0]) < LIMIT_SECONDS  # its own statement fails too


@pytest.fixture
def cluster(server_folder: Path) -> Iterator[tuple[Hosts, str]]:
    """Hosts n1, n2, n3 with a NATS server each, and their addresses; `client` has none."""
    folder = server_folder / "cut-nats"
    folder.mkdir()
    names = ("n1", "n2", "n3")
    with hosts_of(*names, "client") as hosts, ExitStack() as servers:
        routes = json.dumps([f"nats://{hosts.addresses[name]}:6222" for name in names])
        for name in names:
            address = hosts.addresses[name]
            config = folder / f"{name}.conf"
            config.write_text(
                f'server_name: {name}\nlisten: "{address}:4222"\n'
                f'cluster {{ name: mint, listen: "{address}:6222", routes: {routes} }}\n'
                f'jetstream {{ store_dir: "{folder / name}", sync_interval: always }}\n'
            )
            log = servers.enter_context((folder / f"{name}.log").open("ab"))
            servers.enter_context(
                running(*hosts.on(name, str(nats_binary()), "-c", str(config)), stdout=log, stderr=log)
            )
        yield hosts, ",".join(f"nats://{hosts.addresses[name]}:4222" for name in names)


def test_publishing_goes_on_when_any_link_is_cut(cluster: tuple[Hosts, str]) -> None:
    hosts, addresses = cluster
    with running(*hosts.on("client", sys.executable, str(HERE / "publisher.py"), addresses)) as publisher:
        assert line_of(publisher)
        for name in ("n1", "n2", "n3"):  # one of them leads the stream, one has the client
            hosts.cut(name)
            gaps, until = [0.0], time.monotonic() + LIMIT_SECONDS
            while time.monotonic() < until:
                gaps.append(float(line_of(publisher)[1]))
            hosts.heal(name)
            assert max(gaps) < LIMIT_SECONDS
            time.sleep(5)  # the server catches up
