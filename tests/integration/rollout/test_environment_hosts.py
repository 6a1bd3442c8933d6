"""Environments of whole processes: what their end, their user and their kernel make of the workers."""

import asyncio
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.integration.rollout.environment_rig import install_deeds
from tests.processes import until_ended

pytestmark = pytest.mark.integration

_SERVICE = """
import asyncio, sys
from pathlib import Path
from services.rollout.adapters.environments.pool import EnvironmentLimits
from services.rollout.adapters.environments.workers import EnvironmentHost, open_environments
from tests.integration.rollout.environment_rig import deeds, open_door

async def main() -> None:
    folder, door = map(Path, sys.argv[1:])
    limits = EnvironmentLimits(workers=1, calls=4, memory_bytes=1 << 30)
    host = EnvironmentHost(folder=folder, door=str(door), limits=limits, is_confined=True)
    async with open_door(door), open_environments(host) as environments:
        await environments.describe(deeds(), "train", tenant_id="ten_a")
        print("ready", flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the environment."""
    stack = tmp_path_factory.mktemp("stack")
    install_deeds(stack / "envs")
    return stack / "envs"


async def test_a_killed_service_leaves_no_worker(folder: Path, tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    service = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _SERVICE, str(folder), str(tmp_path / "door")),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"},
    )
    assert service.stdout is not None
    assert await service.stdout.readline() == b"ready\n"
    workers = psutil.Process(service.pid).children(recursive=True)
    assert len(workers) == 2, "a launcher and its worker"
    service.kill()
    await service.wait()
    await until_ended(workers)


@pytest.mark.skipif(
    shutil.which("unshare") is None, reason="unshare makes the system that refuses namespaces"
)
async def test_an_environment_is_refused_where_nothing_can_be_confined(folder: Path, tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    service = await asyncio.create_subprocess_exec(
        *("unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh"),
        *(sys.executable, "-c", _SERVICE, str(folder), str(tmp_path / "door")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"},
    )
    told, errors = await service.communicate()
    assert told == b""
    assert b"InvalidField: Field 'environment.id': its worker does not run here" in errors
    assert b"unshare of a user namespace: No space left on device" in errors


_EVERYONES = shutil.which(
    f"python{sys.version_info.major}.{sys.version_info.minor}", path="/usr/bin:/usr/local/bin"
)
"""A Python as this one that every user may run."""


@pytest.mark.skipif(
    shutil.which("setpriv") is None or os.geteuid() != 0 or _EVERYONES is None,
    reason="root becomes the user of an image",
)
async def test_the_user_of_an_image_confines_environments_without_a_right() -> None:
    root = Path(__file__).parents[3]
    assert _EVERYONES is not None
    with tempfile.TemporaryDirectory() as place:
        install_deeds(Path(place, "envs"), python=_EVERYONES)
        for each in (place, *Path(place).rglob("*")):
            os.chown(each, 10001, 10001, follow_symlinks=False)
        service = await asyncio.create_subprocess_exec(
            *("setpriv", "--reuid=10001", "--regid=10001", "--clear-groups", "--no-new-privs"),
            *("--bounding-set=-all", "--inh-caps=-all", _EVERYONES, "-c", _SERVICE),
            *(f"{place}/envs", f"{place}/door"),
            stdout=asyncio.subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": f"{root}:{root / 'tests'}:{root / 'libs'}:{sysconfig.get_path('purelib')}",
                "HOME": place,
                "TMPDIR": place,
            },
        )
        assert service.stdout is not None
        assert await service.stdout.readline() == b"ready\n"
        workers = psutil.Process(service.pid).children(recursive=True)
        own = Path(f"/proc/{service.pid}/ns")
        for kind in ("mnt", "net", "pid", "user"):
            assert (own / kind).readlink() != Path(f"/proc/{workers[-1].pid}/ns", kind).readlink()
        service.kill()
        await service.wait()
        await until_ended(workers)
