"""A stack over hosts: twins of services, three NATS servers, a Postgres and its standby.

The standby is started by tests that need one. A balancer stands for the addresses that a cluster gives
registry, rollout and gateways. Blobs are a folder of all.
"""

import json
import os
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx

from benches.bases import TINY
from services.standalone.adapters.nats import nats_launch
from tests.fleet.hosts import Hosts, hosts_of
from tests.fleet.part import FleetPart
from tests.own_servers import make_postgres

SERVICES = ("registry", "rollout", "trainer", "loader", "gateway")
PORTS = {"registry": 8101, "trainer": 8102, "rollout": 8103, "loader": 8104, "gateway": 8321}
TWINS = tuple(f"{service}-{number}" for service in SERVICES for number in (1, 2))
NATS = ("nats-1", "nats-2", "nats-3")
NATS_PORT, ROUTE_PORT = 4222, 6222
STANDBY = "standby"
READY_SECONDS, RESTART_SECONDS = 240.0, 2.0
BALANCER = """
defaults
  mode tcp
  retries 3
  option redispatch
  timeout connect 1s
  timeout client 1h
  timeout server 1h
{fronts}
"""
FRONT = """
listen {service}
  bind {address}:{port}
  option httpchk GET /readyz
  default-server inter 1s fall 2 rise 1
{servers}
"""


class FleetStack:
    """Parts by their names, each on a host of that name, and ``client``, the host of users."""

    def __init__(self, hosts: Hosts, parts: Mapping[str, FleetPart], standby: FleetPart, key: str) -> None:
        self.hosts = hosts
        self.parts = dict(parts)
        self.standby = standby
        self.key = key
        self.restarted: list[str] = []

    def up(self) -> None:
        """Start all, and wait until they are ready."""
        for part in self.parts.values():
            part.start()
            if part.name == "postgres":
                time.sleep(2)
        for part in self.parts.values():
            if part.ready_path:
                self.wait_for(lambda part=part: self._is_ready(part), what=part.name)
        assert not self.restarted, f"{self.restarted} ended at their first start"

    def down(self) -> None:
        """Kill all."""
        for part in (*self.parts.values(), self.standby):
            part.kill()

    def wait_for(self, condition: Callable[[], bool], *, what: str, seconds: float = READY_SECONDS) -> float:
        """Wait until a condition holds; return the seconds that it took. What ends meanwhile starts again."""
        began = time.monotonic()
        while not condition():
            for part in self.parts.values():
                if part.has_ended():
                    self.restarted.append(part.name)
                    part.start()
            assert time.monotonic() - began < seconds, f"waited in vain for {what}"
            time.sleep(0.2)
        return time.monotonic() - began

    def inflict(self, victim: str, fault: str, seconds: float) -> None:
        """Let a part suffer for some seconds; one that is killed starts again after `RESTART_SECONDS`."""
        part = self.parts[victim]
        match fault:
            case "kill":
                part.kill()
                time.sleep(RESTART_SECONDS)
                part.start()
            case "freeze":
                part.freeze()
                time.sleep(seconds)
                part.thaw()
            case "cut":
                self.hosts.cut(victim)
                time.sleep(seconds)
                self.hosts.heal(victim)
            case _:
                others = {"cut-nats": NATS, "cut-postgres": ("postgres",)}[fault]
                self.hosts.separate(victim, others)
                time.sleep(seconds)
                self.hosts.join(victim)

    def on_client(self) -> ThreadPoolExecutor:
        """Return threads of the users' host."""
        return ThreadPoolExecutor(8, initializer=self.hosts.enter, initargs=("client",))

    def restart(self, name: str) -> None:
        """Ask a part to end, start it again, and wait until it is ready."""
        part = self.parts[name]
        part.stop()
        part.start()
        self.wait_for(lambda: self._is_ready(part), what=name)

    def _is_ready(self, part: FleetPart) -> bool:
        def ask() -> bool:
            try:
                return httpx.get(part.url + part.ready_path, trust_env=False, timeout=2).status_code == 200
            except httpx.TransportError:
                return False

        with self.on_client() as threads:
            return threads.submit(ask).result()


@contextmanager
def open_fleet(
    folder: Path, *, twins: Sequence[str] = TWINS, is_trainer_spread: bool = False
) -> Iterator[FleetStack]:
    """Bring a stack up, and take it down; ``twins`` are the services' processes.

    A spread trainer is one of two ranks, which torchrun starts on the hosts of two trainers.
    """
    with hosts_of("client", "postgres", STANDBY, *NATS, "balancer", *twins) as hosts:
        key, token = secrets.token_hex(24), secrets.token_hex(24)
        postgres, standby, dsn = _postgres(hosts, folder)
        common = {
            "MINT_POSTGRES_DSN": dsn,
            "MINT_NATS_URL": ",".join(f"nats://fleet@{hosts.addresses[one]}:{NATS_PORT}" for one in NATS),
            "MINT_NATS_REPLICAS": "3",
            "MINT_BLOBS_URL": f"file://{folder}/blobs",
            "MINT_INTERNAL_TOKEN": token,
            "MINT_PEERS_REGISTRY_URL": f"http://{hosts.addresses['balancer']}:{PORTS['registry']}",
            "MINT_PEERS_ROLLOUT_URL": f"http://{hosts.addresses['balancer']}:{PORTS['rollout']}",
            "MINT_HTTP_ACCEPT_SECONDS": "4",  # the balancer notices within 3 s
            "MINT_HTTP_DRAIN_SECONDS": "20",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        parts = [postgres, *_cluster(hosts, folder), _balancer(hosts, folder, twins)]
        services = [_service(hosts, folder, name, common, key) for name in twins]
        parts += [
            _rank(part) if is_trainer_spread and part.name.startswith("trainer") else part
            for part in services
        ]
        stack = FleetStack(hosts, {part.name: part for part in parts}, standby, key)
        try:
            stack.up()
            yield stack
        finally:
            stack.down()


def _postgres(hosts: Hosts, folder: Path) -> tuple[FleetPart, FleetPart, str]:
    """Return the primary, a standby that copies it when it starts, and how to connect to both."""
    server = make_postgres(folder / "postgres")
    with (server.launch.folder / "data/pg_hba.conf").open("a") as rules:
        rules.write("host all,replication all 10.77.0.0/24 scram-sha-256\n")
    given = {"listen_addresses=127.0.0.1": "listen_addresses=*", "max_connections=100": "max_connections=300"}
    part = FleetPart(
        name="postgres",
        hosts=hosts,
        argv=[given.get(word, word) for word in server.launch.argv],
        log=server.log,
        run_as=server.launch.run_as,
    )
    copied = folder / STANDBY
    copied.mkdir(mode=0o700)
    if server.launch.run_as is not None:
        os.chown(copied, server.launch.run_as.uid, server.launch.run_as.gid)
    start, _, place = server.address.rpartition("@")
    port, _, database = place.removeprefix("127.0.0.1:").partition("/")
    program, data = Path(server.launch.argv[0]), str(server.launch.folder / "data")
    source = f"{start}@{hosts.addresses['postgres']}:{port}/{database}"
    copy = (str(program.with_name("pg_basebackup")), "-D", f"{copied}/data", "-d", source, "-R", "-c", "fast")
    follow = [f"{copied}/data" if word == data else word for word in part.argv]
    standby = FleetPart(
        name=STANDBY,
        hosts=hosts,
        argv=("sh", "-c", f"{shlex.join(copy)} && exec {shlex.join(follow)}"),
        log=folder / "standby.log",
        run_as=server.launch.run_as,
    )
    both = ",".join(f"{hosts.addresses[name]}:{port}" for name in ("postgres", STANDBY))
    return part, standby, f"{start}@{both}/{database}"


def _cluster(hosts: Hosts, folder: Path) -> Iterator[FleetPart]:
    routes = json.dumps([f"nats://{hosts.addresses[one]}:{ROUTE_PORT}" for one in NATS])
    for name in NATS:
        launch = nats_launch(folder / name, NATS_PORT)
        config, address = launch.folder / "nats.conf", hosts.addresses[name]
        start, _, rest = config.read_text().partition("authorization {")
        config.write_text(
            f'{start.replace("127.0.0.1", address)}authorization {{ token: "fleet" }}{rest.partition("}")[2]}'
            f"server_name: {name}\n"
            f'cluster {{ name: mint, listen: "{address}:{ROUTE_PORT}", routes: {routes} }}\n'
        )
        yield FleetPart(
            name=name, hosts=hosts, argv=launch.argv, log=launch.folder / "log", run_as=launch.run_as
        )


def _balancer(hosts: Hosts, folder: Path, twins: Sequence[str]) -> FleetPart:
    fronts = []
    for service in ("registry", "rollout", "gateway"):
        port, names = PORTS[service], [name for name in twins if name.startswith(service)]
        servers = [f"  server {name} {hosts.addresses[name]}:{port} check" for name in names]
        given = {"service": service, "address": hosts.addresses["balancer"], "port": port}
        fronts += [FRONT.format(**given, servers="\n".join(servers))] if servers else []
    config = folder / "haproxy.cfg"
    config.write_text(BALANCER.format(fronts="".join(fronts)))
    argv = ("haproxy", "-db", "-f", str(config))
    return FleetPart(name="balancer", hosts=hosts, argv=argv, log=folder / "haproxy.log")


def _rank(trainer: FleetPart) -> FleetPart:
    """Return a trainer's host as one of two of a trainer; torchrun decides which of them is rank 0."""
    address, meeting = (trainer.hosts.addresses[name] for name in (trainer.name, "trainer-1"))
    spread = {
        "MINT_TRAINER_SHARDING": "fsdp",
        "MINT_TRAINER_RANK_TIMEOUT_SECONDS": "60",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "GLOO_SOCKET_IFNAME": "eth0",
    }
    # All hosts have the machine's name here, by which torchrun and gloo would find their addresses.
    run = f"--nnodes 2 --nproc-per-node 1 --max-restarts 100 --local-addr {address} --rdzv-backend c10d"
    meet = f"--rdzv-endpoint {meeting}:29400 --rdzv-conf is_host={int(address == meeting)}"
    launch = ("-m", "torch.distributed.run", *run.split(), *meet.split())
    python, *service = trainer.argv
    return replace(trainer, argv=(python, *launch, *service), env={**trainer.env, **spread}, ready_path="")


def _service(hosts: Hosts, folder: Path, name: str, common: Mapping[str, str], key: str) -> FleetPart:
    service, prefix = name.partition("-")[0], f"MINT_{name.partition('-')[0].upper()}_"
    own = {
        "registry": {"BOOTSTRAP_KEY": key},
        "rollout": {"ENVIRONMENTS_DIR": f"{folder}/environments"},
        "trainer": {"BASE_DIR": str(TINY)},
        "loader": {"BASE_DIR": str(TINY), "CACHE_DIR": f"{folder}/{name}", "ENGINE_ID": name},
        "gateway": {"TOKENIZERS": f"tiny={TINY}"},
    }[service]
    listen = {"HTTP_HOST": hosts.addresses[name], "HTTP_PORT": str(PORTS[service])}
    return FleetPart(
        name=name,
        hosts=hosts,
        argv=(sys.executable, "-m", f"services.{service}"),
        env={**common, **{prefix + setting: value for setting, value in (own | listen).items()}},
        log=folder / f"{name}.log",
        port=PORTS[service],
        ready_path="/readyz",
    )
