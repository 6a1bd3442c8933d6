"""A program for tests of the supervisor: Postgres, NATS and two trivial HTTP parts on a state folder.

`web` stands for a service. `nest` starts a child of its own, as an engine does: in its session, but in
another process group. Prints ``ready`` once all parts are, and ends in order on SIGTERM.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from services.standalone.adapters.launch import Launch, free_port
from services.standalone.adapters.nats import nats_launch
from services.standalone.adapters.postgres import postgres_launch, prepare_postgres
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.app import Blueprint, run_blueprint
from services.standalone.core.parts import StackPart
from services.standalone.settings import read_standalone_settings

WEB = """
import http.server, signal, sys
signal.signal(signal.SIGTERM, lambda *_: (print(sys.argv[2], "ends", flush=True), sys.exit(0)))
http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind="127.0.0.1")
"""
NEST = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], process_group=0)
open("nested.pid", "w").write(str(child.pid))
"""


def blueprint(folder: StateFolder) -> Blueprint:
    """Return four parts on fresh ports."""
    names = ("gateway", "postgres", "nats", "web", "nest")
    ports = {name: free_port() for name in names}
    prepare_postgres(folder.root / "postgres")

    def trivial(name: str, code: str) -> Launch:
        return Launch(
            name=name,
            argv=(sys.executable, "-c", code, str(ports[name]), name),
            ready_url=f"http://127.0.0.1:{ports[name]}/",
            alive_url=f"http://127.0.0.1:{ports[name]}/",
            folder=folder.root,
        )

    return Blueprint(
        parts=(
            StackPart(name="web", needs=("postgres", "nats"), silent_seconds=12.0, stop_seconds=1.0),
            StackPart(name="nest", needs=("web",)),
            StackPart(name="postgres"),
            StackPart(name="nats", silent_seconds=24.0),
        ),
        launches={
            "postgres": postgres_launch(folder.root / "postgres", ports["postgres"]),
            "nats": nats_launch(folder.root / "nats", ports["nats"]),
            "web": trivial("web", WEB),
            "nest": trivial("nest", NEST + WEB),
        },
        ports=ports,
    )


async def main() -> None:
    """Supervise until SIGTERM."""
    folder = StateFolder(root=Path(sys.argv[1]))
    environment = read_standalone_settings(os.environ).inherited
    with folder.taken() as lock:
        async with run_blueprint(blueprint(folder), folder, lock=lock, environment=environment) as supervisor:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, supervisor.stop)
            await supervisor.all_ready()
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            await supervisor.ended()


asyncio.run(main())
