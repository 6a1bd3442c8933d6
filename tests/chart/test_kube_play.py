"""The light services run as the chart's pods: their images, user, root file system and secrets, under podman.

Podman plays Deployments, Secrets and the Jobs that come before them. Not shown here is what it has no part
of: Services, NetworkPolicies, probes, several replicas, hooks, and the checks of the API server.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart.rendering import Case, Object, example, of_kind, render
from compose.stack import CONTAINERS_CONF

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STORES = {name: f"localhost/mint-{name}:test" for name in ("postgres", "nats", "s3")}
PORTS = {"registry": 8101, "rollout": 8103, "gateway": 8321}
NETWORK = "mint-chart-test"
S3_KEY, PASSWORD, API_KEY = "chart-test-s3-secret", "chart-test-password", "tml-chart-test-key-0123456789"
START_SECONDS = 300
SECRETS = {
    "internal-token": "chart-test-internal-token",
    "nats-url": "nats://chart-test-token@nats:4222",
    "postgres-dsn": f"postgresql://mint:{PASSWORD}@postgres:5432/mint",
    "api-key": API_KEY,
    "s3-access": "chart-test-s3-access",
    "s3-secret": S3_KEY,
}
VALUES = example(
    "small",
    bases={},
    images={
        target: {"repository": f"localhost/mint-{target}", "tag": "test", "pullPolicy": "Never"}
        for target in ("slim", "tasks", "engine")
    },
    blobs={"url": "s3://mint/blobs", "endpoint": "http://s3:8333"},
    secrets__s3AccessKey={"name": "mint", "key": "s3-access"},
    secrets__s3SecretKey={"name": "mint", "key": "s3-secret"},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Podman:
    """Podman with settings that fit a machine without systemd. ``folder`` holds files for it."""

    folder: Path

    def run(self, *arguments: str, text: str = "", check: bool = True) -> str:
        """Run a command and return what it printed."""
        done = subprocess.run(
            ["podman", *arguments],
            input=text,
            env={**os.environ, "CONTAINERS_CONF_OVERRIDE": str(self.folder / "containers.conf")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"podman {' '.join(arguments)}: {done.stderr[-2000:]}"
        return done.stdout

    def play(self, name: str, *objects: Object) -> None:
        """Play objects as pods of a host name."""
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump_all(objects))
        self.run("kube", "play", f"--network={NETWORK}:alias={name}", str(file))

    def inside(self, service: str, code: str, *, check: bool = True) -> str:
        """Run Python code in a service's container and return what it printed."""
        return self.run("exec", f"mint-{service}-pod-{service}", "python", "-c", code, check=check)


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """Start the stores and the light services; remove all at the end."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    (answer,) = render([Case(values=VALUES)])
    folder = tmp_path_factory.mktemp("podman")
    (folder / "containers.conf").write_text(CONTAINERS_CONF)
    tool = Podman(folder=folder)
    used = {*STORES.values(), *(f"localhost/mint-{name}:test" for name in ("slim", "tasks"))}
    missing = sorted(image for image in used if tool.run("images", "--quiet", image, check=False) == "")
    if missing:
        pytest.skip(f"make test-compose builds what is missing: {', '.join(missing)}")
    names = [f"mint-chart-{store}" for store in STORES]
    jobs = of_kind(answer.objects, "Job")
    pods = [f"mint-{service}-pod" for service in PORTS]
    pods += [f"{job['metadata']['name']}-pod" for job in jobs]
    try:
        tool.run("network", "create", "--ignore", NETWORK)
        _start_stores(tool)
        tool.play("secret", _secret())
        for job in jobs:
            _migrate(tool, job)
        for one in of_kind(answer.objects, "Deployment"):
            tool.play(one["metadata"]["name"], _playable(one))
        yield tool
    finally:
        tool.run("pod", "rm", "--force", "--ignore", "--time=10", *pods, check=False)
        tool.run("rm", "--force", "--ignore", "--volumes", "--time=5", *names, check=False)
        tool.run("secret", "rm", "--ignore", "mint", check=False)
        tool.run("network", "rm", "--force", NETWORK, check=False)


def _start_stores(tool: Podman) -> None:
    deploy = Path(__file__).parents[2] / "deploy"
    for name, secret in (("password", PASSWORD), ("s3_secret_key", S3_KEY)):
        (tool.folder / name).write_text(secret)
    mounts = [
        f"--volume={tool.folder / name}:/run/secrets/{name}:ro" for name in ("password", "s3_secret_key")
    ]
    common = ("run", "--detach", f"--network={NETWORK}", *mounts)
    user = (
        "--env=POSTGRES_USER=mint",
        "--env=POSTGRES_DB=mint",
        "--env=POSTGRES_PASSWORD_FILE=/run/secrets/password",
    )
    tool.run(*common, "--name=mint-chart-postgres", "--network-alias=postgres", *user, STORES["postgres"])
    nats = ("--network-alias=nats", "--env=MINT_NATS_TOKEN=chart-test-token", "--volume=/data")
    conf = f"--volume={deploy / 'nats/nats.conf'}:/etc/nats/nats.conf:ro"
    tool.run(*common, "--name=mint-chart-nats", *nats, conf, STORES["nats"], "-c", "/etc/nats/nats.conf")
    script = f"--volume={deploy / 'docker/s3.sh'}:/etc/mint/s3.sh:ro"
    s3 = ("--network-alias=s3", f"--env=S3_ACCESS_KEY={SECRETS['s3-access']}", "--volume=/data", script)
    tool.run(*common, "--name=mint-chart-s3", *s3, "--entrypoint=/bin/sh", STORES["s3"], "/etc/mint/s3.sh")


def _migrate(tool: Podman, job: Object) -> None:
    """Play a Job again and again until it succeeds, as Kubernetes does: Postgres may still be starting."""
    name = job["metadata"]["name"]

    def succeeds() -> bool:
        tool.play(name, _playable(job))
        code = tool.run("wait", f"{name}-pod-migrate").strip()
        if code != "0":
            tool.run("pod", "rm", "--force", f"{name}-pod")
        return code == "0"

    _until(succeeds)


def _secret() -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "mint"},
        "stringData": SECRETS,
    }


def _playable(of_pods: Object) -> Object:
    """Return a set of pods that podman plays: one replica, and its projected volume as one of a secret."""
    changed: dict[str, Any] = json.loads(json.dumps(of_pods))
    spec = changed["spec"]
    if "replicas" in spec:
        spec["replicas"] = 1
    pod = spec["template"]["spec"]
    for volume in pod["volumes"]:
        for source in volume.pop("projected")["sources"] if "projected" in volume else ():
            volume.setdefault("secret", {"secretName": "mint", "items": []})["items"] += source["secret"][
                "items"
            ]
    return changed


def _until(condition: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < START_SECONDS
        time.sleep(0.5)


def _is_ready(tool: Podman, service: str) -> bool:
    url = f"http://127.0.0.1:{PORTS[service]}/readyz"
    ask = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=3).read().decode())"
    return "ready" in tool.inside(service, ask, check=False)


@pytest.fixture(scope="module")
def ready(podman: Podman) -> Podman:
    """Return when every service is ready; each ends, and is started again, until it finds its stores."""
    for service in PORTS:
        _until(lambda service=service: _is_ready(podman, service))
    return podman


def test_a_client_is_answered_through_all_of_them(ready: Podman) -> None:
    ask = f"""
import urllib.request as u
headers = {{"authorization": "Bearer {API_KEY}"}}
for path in ("/mint/v1/policies", "/mint/v1/tasks"):
    print(u.urlopen(u.Request("http://mint-gateway:8321" + path, headers=headers), timeout=120).status)
"""
    assert ready.inside("registry", ask).split() == ["200", "200"]


@pytest.mark.parametrize("service", PORTS)
def test_a_service_has_no_right_and_writes_only_where_it_may(ready: Podman, service: str) -> None:
    look = """
import json, os, pathlib
def can_write(folder):
    try:
        pathlib.Path(folder, "probe").write_text("x")
    except OSError:
        return False
    return True
status = dict(line.split(":", 1) for line in open("/proc/1/status"))
print(json.dumps({
    "ids": [os.getuid(), os.getgid()],
    "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "no_new_privileges": int(status["NoNewPrivs"]),
    "writable": [f for f in ("/", "/opt/mint", "/run/secrets/mint", "/bases", "/tmp") if can_write(f)],
}))
"""
    assert json.loads(ready.inside(service, look)) == {
        "ids": [10001, 10001],
        "capabilities": 0,
        "no_new_privileges": 1,
        "writable": ["/tmp"],
    }


def test_a_service_ends_by_itself_when_its_pod_is_stopped(ready: Podman) -> None:
    container = "mint-rollout-pod-rollout"
    ready.run("stop", "--time=60", container)
    assert ready.run("inspect", "--format={{.State.ExitCode}}", container).strip() == "0"
