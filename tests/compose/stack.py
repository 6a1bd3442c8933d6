"""The compose stack under podman and docker-compose, from a copy of the working tree and stand-in images."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

ROOT = Path(__file__).parents[2]
NEEDED = ("podman", "buildah", "runc", "docker-compose", "mmdebstrap")
STAND_INS = {"postgres": "postgres", "nats": "nats", "s3": "s3"}
PARTS = ("postgres", "nats", "s3", "registry", "rollout", "gateway", "trainer", "loader")
PORT = 18321
UP_SECONDS = 600
CONTAINERS_CONF = """[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""


def missing() -> str:
    """Return why the stack cannot be run here, or nothing."""
    absent = [name for name in NEEDED if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    return "" if os.geteuid() == 0 else "the stand-in images are made by root"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposeStack:
    """A stack that is up. ``work`` holds its files, ``environ`` what its commands read."""

    work: Path
    environ: Mapping[str, str]

    def compose(self, *arguments: str, timeout: float = UP_SECONDS) -> str:
        """Run docker-compose and return what it printed."""
        return _run(["docker-compose", *arguments], cwd=self.work / "mint", env=self.environ, timeout=timeout)

    def up(self) -> float:
        """Start what is not up; return the seconds until all of it was healthy."""
        began = time.monotonic()
        self.compose("up", "--detach", "--no-build", "--wait", "--wait-timeout", str(UP_SECONDS))
        return time.monotonic() - began

    def down(self) -> None:
        """Stop all and remove its containers; volumes stay."""
        self.compose("down", "--timeout", "30")

    def inspect(self, part: str, template: str) -> str:
        """Return what podman knows of a part."""
        command = ["podman", "inspect", f"mint-{part}-1", "--format", template]
        return _run(command, env=self.environ, timeout=30).strip()

    def health(self, part: str) -> str:
        """Return a part's health: healthy, unhealthy or starting."""
        return self.inspect(part, "{{.State.Health.Status}}")

    def kill(self, part: str) -> None:
        """Kill a part's process on this machine: a crash, which its engine of containers restarts."""
        os.kill(int(self.inspect(part, "{{.State.Pid}}")), signal.SIGKILL)

    @contextlib.contextmanager
    def client(self) -> Iterator[httpx.Client]:
        """Yield a client with the first key."""
        key = (self.work / "mint/secrets/api_key").read_text().strip()
        headers = {"authorization": f"Bearer {key}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", headers=headers, timeout=60) as client:
            yield client


@contextlib.contextmanager
def open_stack(work: Path) -> Iterator[ComposeStack]:
    """Build the images, write the files, and bring everything up; take it down at the end."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "containers.conf").write_text(CONTAINERS_CONF)
    environ = {
        **os.environ,
        "CONTAINERS_CONF_OVERRIDE": str(work / "containers.conf"),
        "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
        "DOCKER_HOST": f"unix://{work}/podman.sock",
        "DOCKER_BUILDKIT": "0",
        "COMPOSE_FILE": "docker-compose.yml:stand-ins.yml",
        "MINT_IMAGE": "localhost/mint-cpu:test",
        "MINT_SLIM_IMAGE": "localhost/mint-slim:test",
        "MINT_TASKS_IMAGE": "localhost/mint-tasks:test",
    }
    _copy_tree(work / "mint")
    _run([str(ROOT / "tests/compose/stand_ins.sh"), str(work), sys.prefix], env=environ, timeout=1800)
    for target in ("slim", "tasks", "cpu"):
        _run(_build(work, target), env=environ, timeout=3600)
    _write_files(work / "mint", environ)
    stack = ComposeStack(work=work, environ=environ)
    with _podman_service(work, environ), _health_checks(stack):
        try:
            yield stack
        finally:
            stack.compose("down", "--timeout", "10", "--volumes")


def eventually(condition: Callable[[], bool], *, seconds: float) -> float:
    """Wait until a condition holds; return how long it took. Fails after ``seconds``."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not come in time"
        time.sleep(0.2)
    return time.monotonic() - began


def _run(command: list[str], *, env: Mapping[str, str], timeout: float, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=dict(env), timeout=timeout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def _build(work: Path, target: str) -> list[str]:
    wheels = os.environ.get("PIP_FIND_LINKS", "")
    shared = [f"--volume={wheels}:{wheels}:ro", f"--env=PIP_FIND_LINKS={wheels}"] if wheels else []
    options = ["--network=host", "--format=docker", "--build-arg=BASE_IMAGE=localhost/mint-python:test"]
    file = str(work / "mint/deploy/docker/Dockerfile")
    tag = f"--tag=localhost/mint-{target}:test"
    return [
        "podman",
        "build",
        *options,
        *shared,
        tag,
        f"--target={target}",
        f"--file={file}",
        str(work / "mint"),
    ]


def _copy_tree(folder: Path) -> None:
    """Copy what git knows of the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    shutil.rmtree(folder, ignore_errors=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def _write_files(folder: Path, environ: Mapping[str, str]) -> None:
    mint = [sys.executable, "-m", "mint_launcher"]
    _run([*mint, "compose", "init", "--to", str(folder), "--port", str(PORT)], env=environ, timeout=60)
    stand_ins = {part: {"image": f"localhost/mint-{name}:test"} for part, name in STAND_INS.items()}
    (folder / "stand-ins.yml").write_text(yaml.safe_dump({"services": stand_ins}))


@contextlib.contextmanager
def _podman_service(work: Path, environ: Mapping[str, str]) -> Iterator[None]:
    with (work / "podman.log").open("w") as log:
        process = subprocess.Popen(
            ["podman", "system", "service", "--time=0", environ["DOCKER_HOST"]],
            env=dict(environ),
            stdout=log,
            stderr=log,
        )
    try:
        eventually((work / "podman.sock").exists, seconds=30)
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def _health_checks(stack: ComposeStack) -> Iterator[None]:
    """Run the health checks of containers again and again: podman leaves that to systemd."""
    ended = threading.Event()

    def check() -> None:
        label = "label=com.docker.compose.project=mint"
        while not ended.wait(1):
            command = ["podman", "ps", "--quiet", "--filter", label]
            listed = subprocess.run(
                command, env=dict(stack.environ), capture_output=True, text=True, check=False
            )
            for container in listed.stdout.split():
                subprocess.run(
                    ["podman", "healthcheck", "run", container],
                    env=dict(stack.environ),
                    capture_output=True,
                    check=False,
                )

    thread = threading.Thread(target=check)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def sizes(environ: Mapping[str, str]) -> dict[str, int]:
    """Return the bytes of each image."""
    listed = _run(["podman", "images", "--format", "json"], env=environ, timeout=30)
    images: list[dict[str, Any]] = json.loads(listed)
    return {name: image["Size"] for image in images for name in image.get("Names", ()) if "mint-" in name}
