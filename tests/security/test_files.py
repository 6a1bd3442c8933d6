"""What a stack writes is its user's alone, and its servers run as nobody else does."""

import asyncio
import os
import pwd
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest
from e2e.stack import RunningStack

from mint_common.blobs.localfs import LocalBlobs
from services.standalone.adapters import backup
from services.standalone.adapters.launch import RunAs
from services.standalone.adapters.nats import nats_launch, nats_url
from services.standalone.adapters.postgres import postgres_dsn, postgres_launch, prepare_postgres
from services.standalone.adapters.privileges import child_setup
from services.standalone.adapters.readiness import probe
from services.standalone.adapters.server_user import IDS, hand_over, server_user
from services.standalone.adapters.state_folder import StateFolder
from tests.own_servers import RunningServer
from tests.processes import ROOT, SERVICES

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts servers as somebody else")


def open_to_others(root: Path) -> list[str]:
    """Return what group or others may do anything with; a linked file is a base's and was there before."""
    found = []
    below = (Path(folder, name) for folder, inner, names in os.walk(root) for name in (*inner, *names))
    for path in (root, *below):
        try:
            entry = path.lstat()
        except FileNotFoundError:  # servers replace their files meanwhile
            continue
        is_ours = not stat.S_ISLNK(entry.st_mode) and (stat.S_ISDIR(entry.st_mode) or entry.st_nlink == 1)
        passes = stat.S_IXGRP if path == root and os.geteuid() == 0 else 0
        if is_ours and entry.st_mode & 0o077 & ~passes:
            found.append(f"{stat.filemode(entry.st_mode)} {path.relative_to(root)}")
    return found


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_nothing_of_a_running_stack_is_open_to_others(whole_stack: RunningStack) -> None:
    policy = whole_stack.make_policy("private")
    prompt = {"model": policy["name"], "prompt": "red", "max_tokens": 2}
    whole_stack.http.post("/v1/completions", json=prompt)
    found = [line for line in open_to_others(whole_stack.folder) if not line.endswith("up.out")]  # the test's
    assert found == []


@pytest.mark.e2e
@pytest.mark.timeout(600)
@needs_root
def test_the_servers_of_a_running_stack_run_as_an_id_without_a_name(whole_stack: RunningStack) -> None:
    parts = whole_stack.parts()
    users = {psutil.Process(parts[name]["pid"]).uids().real for name in ("postgres", "nats")}
    assert len(users) == 1
    assert all(any(user in numbers for numbers in IDS) for user in users)
    with pytest.raises(KeyError):
        pwd.getpwuid(users.pop())


@pytest.fixture
def root(server_folder: Path, request: pytest.FixtureRequest) -> Path:
    """The root of a state folder that the servers' user can reach."""
    folder = server_folder / f"files-{request.node.name}"
    folder.mkdir()
    folder.chmod(0o755)
    return folder


def test_a_folder_of_an_earlier_version_is_closed_when_it_is_taken(root: Path) -> None:
    (root / "blobs" / "revisions").mkdir(parents=True)
    for name in ("run.json", "blobs/revisions/record", "log", "mine"):
        (root / name).mkdir() if name == "log" else (root / name).write_text("x")
        (root / name).chmod(0o755)
    with StateFolder(root=root).taken():
        assert open_to_others(root) == ["-rwxr-xr-x mine"]  # not ours to change, and behind the folder
        assert (root / "run.json").stat().st_mode & 0o777 == 0o700


def test_a_linked_file_of_a_base_keeps_the_mode_of_its_source(root: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_text("x")
    weights.chmod(0o644)
    (root / "bases").mkdir()
    try:
        os.link(weights, root / "bases" / "weights")
    except OSError:
        pytest.skip("two file systems")
    StateFolder(root=root).close_to_others()
    assert weights.stat().st_mode & 0o777 == 0o644


def test_what_a_started_process_writes_is_private(tmp_path: Path) -> None:
    code = "import pathlib; pathlib.Path('file').write_text('x'); pathlib.Path('folder').mkdir()"
    setup = child_setup(None, parent=None)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, preexec_fn=setup)
    assert open_to_others(tmp_path / "folder") == []
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_services_that_are_started_alone_make_their_files_private() -> None:
    code = (
        "import os\n"
        "from mint_common.runtime import service\n"
        "from mint_common.settings import Block, TelemetrySettings\n"
        "class Settings(Block):\n"
        "    telemetry: TelemetrySettings\n"
        "async def main(*_settings): print(oct(os.umask(0)))\n"
        "service.run_main(Settings, main, service='registry')\n"
        "service.run_process(main)\n"
    )
    for service in SERVICES:
        main = (ROOT / f"services/{service}/__main__.py").read_text()
        assert "run_main(" in main or "run_process(" in main
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "0o77\n" * 2


async def test_blobs_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        await LocalBlobs(tmp_path / "blobs").put("records/one", b"prompts")
    finally:
        os.umask(before)
    assert open_to_others(tmp_path / "blobs") == []


def test_a_copy_of_blobs_is_private_and_a_backup_is_refused_where_it_could_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "blobs"
    (source / "records").mkdir(parents=True)
    (source / "records" / "one").write_text("prompts")
    backup.copy_blobs(source, tmp_path / "copy")
    assert (tmp_path / "copy" / "records" / "one").stat().st_mode & 0o777 == 0o600
    make = Path.mkdir

    def make_without_modes(folder: Path, mode: int = 0o777, **options: bool) -> None:
        make(folder, **options)
        folder.chmod(0o777)

    monkeypatch.setattr(Path, "mkdir", make_without_modes)
    with pytest.raises(backup.BackupExposed, match="has no permissions"):
        backup.back_up("postgresql://127.0.0.1:1/none", source, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


@needs_root
def test_a_cluster_of_nobodys_is_handed_over(root: Path) -> None:
    home = root / "postgres"
    prepare_postgres(home)
    address = postgres_dsn(home, 1)
    nobody = pwd.getpwnam("nobody")
    for path in (home, *home.rglob("*")):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    foreign = root / "foreign"
    foreign.write_text("x")
    os.link(foreign, home / "linked")

    prepare_postgres(home)

    assert postgres_dsn(home, 1) == address
    user = server_user(root)
    assert user is not None
    assert user.uid != nobody.pw_uid
    owners = {path.lstat().st_uid for path in (home, *home.rglob("*")) if path.name != "linked"}
    assert owners == {user.uid}
    assert foreign.stat().st_uid == 0
    assert open_to_others(home) == ["-rw-r--r-- linked"] or open_to_others(home) == []
    assert postgres_launch(home, 1).run_as == user


@needs_root
def test_a_server_below_closed_folders_keeps_one_capability_alone(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    program = closed / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    run_as = RunAs(uid=IDS[0][0], gid=IDS[0][0], pass_closed_folders=True)
    script = f"test -x {program} && grep Cap /proc/self/status"
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        check=True,
        capture_output=True,
        text=True,
        preexec_fn=child_setup(run_as, parent=None),
    )
    found = dict(line.split(":\t") for line in done.stdout.splitlines())
    assert len({found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")}) == 1
    assert int(found["CapEff"], 16).bit_count() == 1


@needs_root
def test_the_id_stays_until_somebody_has_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = server_user(root)
    assert first == server_user(root)
    assert first is not None
    taken = pwd.struct_passwd(("new", "x", first.uid, first.gid, "", "/", "/bin/sh"))
    by_id = pwd.getpwuid

    def with_new(number: int) -> pwd.struct_passwd:
        return taken if number == first.uid else by_id(number)

    monkeypatch.setattr(pwd, "getpwuid", with_new)
    second = server_user(root)
    assert second is not None
    assert second.uid != first.uid
    hand_over(root, second)
    assert root.stat().st_gid == second.gid


async def test_nats_listens_at_one_port_and_lets_nobody_look_without_the_token(
    nats_server: RunningServer,
) -> None:
    assert nats_server.process is not None
    listening = [each for each in psutil.Process(nats_server.process.pid).net_connections() if not each.raddr]
    assert len(listening) == 1
    assert await asyncio.to_thread(nats_server._is_ready)


async def test_nats_is_not_ready_for_a_wrong_token(nats_server: RunningServer) -> None:
    url = nats_server.address.replace("nats://", "nats://x")
    async with httpx.AsyncClient() as http:
        assert not await probe(replace(nats_server.launch, ready_bus=url), http)


def test_the_configuration_of_nats_is_private_and_opens_no_monitoring(root: Path) -> None:
    launch = nats_launch(root / "nats", 4222)
    config = (root / "nats" / "nats.conf").read_text()
    assert "http" not in config
    assert launch.ready_bus == nats_url(root / "nats", 4222)
    assert open_to_others(root / "nats") == []
