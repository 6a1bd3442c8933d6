"""What is decided before the first process starts."""

import os
import socket
from pathlib import Path

import pytest

from mint_client.core.tracking import TrackerKind
from mint_common.errors import SettingInvalid
from services.standalone.adapters.launch import free_port
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.app import Blueprint, _plan_stack
from services.standalone.core.plan import BaseAt, TrackerPlan
from services.standalone.core.refusals import GatewayPortBusyError, SettingsInvalidError
from services.standalone.settings import read_standalone_settings

BASES = (BaseAt(name="tiny", folder="/b/tiny"),)
ELSEWHERE = {
    "MINT_POSTGRES_DSN": "postgresql://u:p@db/x",
    "MINT_NATS_URL": "nats://bus:4222",
    "MINT_BLOBS_URL": "s3://bucket/prefix",
    "MINT_BLOBS_S3_ENDPOINT": "http://s3:9000",
}


async def draw(root: Path, environ: dict[str, str], *, port: int | None = None) -> Blueprint:
    """Return the blueprint of a stack with one base."""
    folder = StateFolder(root=root)
    folder.create()
    return await _plan_stack(folder, BASES, port=port, settings=read_standalone_settings(environ))


async def test_parts_that_run_elsewhere_are_not_started_here(tmp_path: Path) -> None:
    blueprint = await draw(tmp_path, ELSEWHERE, port=free_port())
    assert {"postgres", "nats"}.isdisjoint(blueprint.launches)
    assert {part.name for part in blueprint.parts} == set(blueprint.launches)
    for launch in blueprint.launches.values():
        assert ELSEWHERE.items() <= launch.env.items()
    assert not (tmp_path / "postgres").exists()


async def test_the_embedded_parts_come_first_and_every_service_is_told_where_they_are(tmp_path: Path) -> None:
    blueprint = await draw(tmp_path, {}, port=free_port())
    assert {"postgres", "nats"} <= set(blueprint.launches)
    registry = next(part for part in blueprint.parts if part.name == "registry")
    assert set(registry.needs) == {"postgres", "nats"}
    for name in ("registry", "trainer-tiny", "loader-tiny", "rollout", "gateway"):
        env = blueprint.launches[name].env
        assert f"127.0.0.1:{blueprint.ports['postgres']}" in env["MINT_POSTGRES_DSN"]
        assert env["MINT_NATS_URL"].endswith(f"127.0.0.1:{blueprint.ports['nats']}")
        assert env["MINT_BLOBS_URL"] == f"file://{tmp_path}/blobs"


async def test_ports_and_bases_are_remembered_for_the_next_start(tmp_path: Path) -> None:
    first = await draw(tmp_path, ELSEWHERE, port=free_port())
    second = await draw(tmp_path, ELSEWHERE)
    assert second.ports == first.ports
    assert StateFolder(root=tmp_path).read_state().bases == ("tiny",)


async def test_wrong_settings_of_several_parts_are_each_told_once(tmp_path: Path) -> None:
    wrong = {"MINT_TRAINER_THREADS": "many", "MINT_GATEWAY_HTTP_HOST": "", "MINT_ROLLOUT_TASK_WORKERS": "-1"}
    with pytest.raises(SettingsInvalidError, match="Wrong settings: 2") as refused:
        await draw(tmp_path, {**ELSEWHERE, **wrong}, port=free_port())
    for name in ("MINT_TRAINER_THREADS", "MINT_ROLLOUT_TASK_WORKERS"):
        assert str(refused.value).count(name) == 1
    with pytest.raises(SettingInvalid, match="MINT_TRAINER_THREADS"):
        await draw(tmp_path, {**ELSEWHERE, "MINT_TRAINER_THREADS": "many"}, port=free_port())


async def test_a_port_that_another_stack_has_is_refused_naming_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.json").touch()
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(GatewayPortBusyError, match=f"the stack of {tmp_path} "):
            await draw(tmp_path / "other", ELSEWHERE, port=port)


async def test_a_busy_gateway_port_is_refused_naming_who_has_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(GatewayPortBusyError, match=rf"Port {port} is taken by .*pid {os.getpid()}"):
            await draw(tmp_path, ELSEWHERE, port=port)


async def test_a_tracker_is_an_optional_part_with_the_stacks_own_key(tmp_path: Path) -> None:
    folder = StateFolder(root=tmp_path)
    folder.create()
    trackers = (TrackerPlan(to=TrackerKind.WANDB, at="/data"), TrackerPlan(to=TrackerKind.WANDB))
    settings = read_standalone_settings(ELSEWHERE)
    blueprint = await _plan_stack(folder, BASES, port=free_port(), settings=settings, trackers=trackers)
    optional = {part.name: part.needs for part in blueprint.parts if part.optional}
    assert optional == {"track-wandb": ("gateway",), "track-wandb-2": ("gateway",)}
    launch = blueprint.launches["track-wandb"]
    assert launch.argv[4:] == (
        *("track", "--to", "wandb", "--project", "mint"),
        *("--place", f"{tmp_path}/track/track-wandb.json", "--at", "/data"),
    )
    port = blueprint.ports["gateway"]
    assert launch.env == {
        "MINT_URL": f"http://127.0.0.1:{port}",
        "MINT_API_KEY": folder.secrets().api_key,
    }
    # OpenAI's `integrations` are accepted for that tenant.
    assert blueprint.launches["rollout"].env["MINT_ROLLOUT_WANDB_TENANTS"] == "default"
