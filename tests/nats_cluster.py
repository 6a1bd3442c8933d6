"""Three NATS servers of one cluster on loopback, to be killed at will."""

import json
from dataclasses import replace
from pathlib import Path

from services.standalone.adapters.launch import free_port
from services.standalone.adapters.nats import nats_launch
from tests.own_servers import RunningServer

TOKEN = "cluster"


def make_cluster(folder: Path) -> list[RunningServer]:
    """Prepare the servers (not started)."""
    ports = [(free_port(), free_port()) for _ in range(3)]
    routes = json.dumps([f"nats://127.0.0.1:{route}" for _, route in ports])
    servers = []
    for number, (port, route) in enumerate(ports):
        launch = nats_launch(folder / f"n{number}", port)
        config = launch.folder / "nats.conf"
        text = config.read_text() + (
            f"server_name: n{number}\n"
            f'cluster {{ name: mint, listen: "127.0.0.1:{route}", routes: {routes} }}\n'
        )
        start, _, rest = text.partition("authorization {")
        config.write_text(f'{start}authorization {{ token: "{TOKEN}" }}{rest.partition("}")[2]}')
        address = f"nats://{TOKEN}@127.0.0.1:{port}"
        servers.append(RunningServer(replace(launch, ready_bus=address), address, launch.folder / "log"))
    return servers
