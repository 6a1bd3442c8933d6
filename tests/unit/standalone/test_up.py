"""What `mint up` and `mint base add` look at and say before and after anything starts."""

import json
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from mint_client.cli import app
from mint_common.errors import MintError
from services.standalone.adapters import base_import, bases
from services.standalone.adapters.bases import DEFAULT_MAX_RANK, add_base, ensure_base, tiny_folder
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.commands.base import restart_with
from services.standalone.commands.up import not_started
from services.standalone.core.plan import BaseAt
from services.standalone.core.refusals import GatewayPortBusyError, HubUnreachableError, NoRoomError
from services.standalone.core.state import StackState

STARTED = [BaseAt(name="tiny", folder="/b/tiny")]


def test_a_taken_port_is_found_before_a_base_is_added(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(
            app, ["up", "--base", "tiny", "--port", str(port), "--dir", str(tmp_path)]
        )
    assert isinstance(result.exception, GatewayPortBusyError)
    assert list((tmp_path / "bases").iterdir()) == []


def test_known_bases_that_are_not_started_are_named_with_the_command_that_starts_them() -> None:
    assert not_started({"tiny": True}, STARTED) == []
    assert not_started({"smollm2": True, "tiny": True}, STARTED) == [
        "  not started: smollm2 (`mint up --base tiny --base smollm2` starts all)"
    ]
    assert not_started({"mine": False, "tiny": True}, STARTED) == [
        (
            "  not started: mine (`mint up --base tiny --base mine` starts all;"
            " `mint base add` brings mine back first)"
        )
    ]


def test_a_base_added_beside_a_running_stack_says_how_the_stack_gets_it(tmp_path: Path) -> None:
    state = StateFolder(root=tmp_path)
    with state.taken():
        state.write_state(StackState(ports={}, bases=("tiny",)))
        result = CliRunner().invoke(app, ["base", "add", "tiny", "--name", "mine", "--dir", str(tmp_path)])
    told = " ".join(result.output.split())
    assert "the running stack does not have it yet" in told
    assert restart_with(("tiny",), "mine", tmp_path) in told
    assert f"mint up --dir {tmp_path} --base tiny --base mine" in told


def test_what_the_demo_has_converted_is_taken_over_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "demo" / "bases" / "smollm2"
    monkeypatch.setattr(bases, "DEMO_FOLDER", tmp_path / "demo")
    monkeypatch.setattr(bases, "_add_elsewhere", lambda *_: pytest.fail("converted again"))
    shutil.copytree(tiny_folder(), left)
    origin = left / base_import.SOURCE_FILE
    origin.write_text(json.dumps({"source": f"/packages/{base_import.SMOLLM2_GGUF}"}))
    steps: list[str] = []
    added = ensure_base(tmp_path / "bases", "smollm2", report=steps.append)
    assert added.name == "smollm2"
    assert f"adding the base smollm2 from {left}" in steps
    origin.write_text(json.dumps({"source": "/elsewhere/another-model"}))
    with pytest.raises(pytest.fail.Exception, match="converted again"):
        ensure_base(tmp_path / "others", "smollm2", report=steps.append)


def test_no_room_for_the_conversion_is_said_with_numbers_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_import.shutil, "disk_usage", lambda _: SimpleNamespace(free=120_000_000))
    with pytest.raises(
        NoRoomError, match=r"needs 560 MB, and .* has 120 MB free. Free 440 MB there"
    ) as refused:
        add_base(tmp_path / "bases", "smollm2", name="smollm2", max_rank=DEFAULT_MAX_RANK, report=pytest.fail)
    assert isinstance(refused.value, MintError)


def test_a_hub_that_cannot_be_reached_names_what_to_do_instead() -> None:
    told = str(HubUnreachableError(endpoint="https://hub", problem="ConnectError: no route"))
    assert "set HF_ENDPOINT to another hub, or name a folder" in told
