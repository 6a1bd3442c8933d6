"""The command line as its user reads it. `MINT_GOLDEN=write` rewrites the golden files."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from goldens import check_golden
from typer.testing import CliRunner

from mint_client.cli import app, main, refuse
from mint_client.core.refusals import StackNotRunningError
from mint_common.errors import MintError, NotFound
from services.standalone.adapters import memory
from services.standalone.adapters.bases import ensure_base, tiny_folder
from services.standalone.adapters.launch import free_port
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.commands import plan as plan_command
from services.standalone.core.refusals import (
    BaseInUseError,
    BaseMissingError,
    BaseNameTakenError,
    FleetTooSmallError,
    FolderUnusableError,
    NoRoomError,
    StackRunningError,
)
from services.standalone.core.state import StackState

GOLDEN = Path(__file__).parents[2] / "golden" / "cli"


def commands_of(command: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Yield every group and command, by what a user types."""
    yield " ".join(path), command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands_of(inner, *path, name)


COMMANDS = dict(commands_of(typer.main.get_command(app)))


def help_of(command: str) -> str:
    """Return what ``--help`` prints."""
    result = CliRunner().invoke(app, [*command.split(), "--help"], prog_name="mint", env={"COLUMNS": "80"})
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_as_reviewed(command: str) -> None:
    check_golden(GOLDEN / f"{'-'.join(['mint', *command.split()])}.txt", help_of(command))


def test_no_golden_is_of_a_command_that_is_gone() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == {
        "-".join(["mint", *each.split()]) for each in COMMANDS
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_that_it_takes(command: str) -> None:
    if hasattr(COMMANDS[command], "commands"):
        return
    (example,) = re.findall(rf"Example: mint ({command}(?: .+\n?)*)", " ".join(help_of(command).split("  ")))
    words = shlex.split(example.partition(" Options:")[0].partition(" Arguments:")[0])
    COMMANDS[command].make_context(command, words[len(command.split()) :])


def test_refusal_is_a_line_that_tells_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        refuse(NotFound(kind="base", name="smollm2", near="tiny"))
    assert (left.value.code, capsys.readouterr().err) == (
        1,
        "mint: No base named 'smollm2'. There is: tiny.\n",
    )


def run(*arguments: str) -> str:
    """Run a command that succeeds and return what it says."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def refusal(*arguments: str) -> MintError:
    """Run a command that is refused and return why."""
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, MintError), result
    return result.exception


def test_the_tiny_base_is_added_under_any_name_and_listed(tmp_path: Path) -> None:
    assert "mint base add" in run("base", "list", "--dir", str(tmp_path))
    run("base", "add", "tiny", "--dir", str(tmp_path))
    run("base", "add", str(tiny_folder()), "--name", "mine", "--no-probe", "--dir", str(tmp_path))
    listed = run("base", "list", "--dir", str(tmp_path))
    assert "tiny" in listed
    assert "mine" in listed
    assert "Qwen3ForCausalLM" in listed


def test_a_folder_with_a_version_in_its_name_becomes_a_base_that_the_registry_takes(tmp_path: Path) -> None:
    shutil.copytree(tiny_folder(), tmp_path / "Tiny-2.5")
    run("base", "add", str(tmp_path / "Tiny-2.5"), "--no-probe", "--dir", str(tmp_path / "state"))
    listed = run("base", "list", "--dir", str(tmp_path / "state"))
    assert "tiny-2-5\t" in listed


def test_a_base_that_a_stack_needs_is_added_by_itself(tmp_path: Path) -> None:
    steps: list[str] = []
    added = ensure_base(tmp_path, "tiny", report=steps.append)
    assert (Path(added.folder) / "mint_base.json").is_file()
    assert steps
    assert ensure_base(tmp_path, "tiny", report=pytest.fail) == added


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("base", "add", "tiny", "--name", "No Such"), "does not match"),
        (("base", "add", "tiny", "--name", "tiny-0.5b"), "does not match"),
        (("base", "add", "/nowhere"), "neither a folder, nor one of tiny, smollm2, nor a model of a hub"),
    ],
)
def test_a_base_that_cannot_be_added_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], problem: str
) -> None:
    assert problem in str(refusal(*arguments, "--dir", str(tmp_path)))
    assert list(tmp_path.glob("bases/*")) == []


def test_a_folder_that_is_no_base_is_refused_naming_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    error = refusal("base", "add", str(tmp_path), "--name", "x", "--dir", str(tmp_path / "state"))
    assert "tokenizer.json, model.safetensors missing" in str(error)


def test_a_base_is_never_replaced(tmp_path: Path) -> None:
    run("base", "add", "tiny", "--dir", str(tmp_path))
    assert "is there already" in run("base", "add", "tiny", "--dir", str(tmp_path))
    other_rank = refusal("base", "add", "tiny", "--max-rank", "8", "--dir", str(tmp_path))
    assert "A base with --max-rank 16 named 'tiny' exists already" in str(other_rank)
    shutil.copytree(tiny_folder(), tmp_path / "other")
    (tmp_path / "other/generation_config.json").write_text("{}")
    error = refusal("base", "add", str(tmp_path / "other"), "--name", "tiny", "--dir", str(tmp_path))
    assert isinstance(error, BaseNameTakenError)
    assert "Choose another --name" in str(error)


def test_a_base_is_shown_with_what_it_needs_and_removed(tmp_path: Path) -> None:
    run("base", "add", "tiny", "--name", "mine", "--dir", str(tmp_path))
    shown = run("base", "show", "mine", "--dir", str(tmp_path))
    assert "477 k parameters stored in float32" in shown
    assert f"source\t{tiny_folder()}" in shown
    with StateFolder(root=tmp_path).taken():
        StateFolder(root=tmp_path).write_state(StackState(ports={}, bases=("mine",)))
        assert isinstance(refusal("base", "remove", "mine", "--dir", str(tmp_path)), BaseInUseError)
    assert run("base", "remove", "mine", "--dir", str(tmp_path)) == "removed mine\n"
    assert list((tmp_path / "bases").iterdir()) == []
    for command in ("show", "remove"):
        assert isinstance(refusal("base", command, "mine", "--dir", str(tmp_path)), BaseMissingError)
        assert isinstance(refusal("base", command, "../bases", "--dir", str(tmp_path)), BaseMissingError)


def test_up_takes_the_path_of_a_folder_and_adds_it_once(tmp_path: Path) -> None:
    shutil.copytree(tiny_folder(), tmp_path / "Tiny-2.5")
    added = ensure_base(tmp_path / "bases", str(tmp_path / "Tiny-2.5"), report=lambda _step: None)
    assert (added.name, added.trainable) == ("tiny-2-5", True)
    assert ensure_base(tmp_path / "bases", str(tmp_path / "Tiny-2.5"), report=lambda _step: None) == added


def test_up_with_an_unknown_base_names_those_that_can_be_had(tmp_path: Path) -> None:
    run("base", "add", "tiny", "--dir", str(tmp_path))
    error = refusal("up", "--base", "llama", "--port", str(free_port()), "--dir", str(tmp_path))
    assert isinstance(error, BaseMissingError)
    assert "which has tiny: `mint base add tiny|smollm2|ORG/NAME|FOLDER`" in str(error)


def test_up_on_a_folder_whose_stack_runs_is_refused_with_its_pid(tmp_path: Path) -> None:
    with StateFolder(root=tmp_path).taken():
        error = refusal("up", "--dir", str(tmp_path))
    assert isinstance(error, StackRunningError)
    assert error.pid == os.getpid()


@pytest.mark.parametrize("command", [("up",), ("base", "add", "tiny")])
def test_what_cannot_be_a_state_folder_is_refused_in_a_sentence(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/mint")):
        error = refusal(*command, "--dir", str(place))
        assert isinstance(error, FolderUnusableError)
        assert str(place) in str(error)
        doctor = CliRunner().invoke(app, ["doctor", "--dir", str(place)])
        assert doctor.exit_code == 1
        assert "state folder\t" in doctor.output
        assert "cannot be one" in doctor.output


@pytest.mark.parametrize("command", ["status", "down", "adapters", "top"])
def test_without_a_stack_each_command_says_so(tmp_path: Path, command: str) -> None:
    assert isinstance(refusal(command, "--dir", str(tmp_path)), StackNotRunningError)


def test_a_refusal_is_one_plain_sentence_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["mint", "status", "--dir", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"mint: No stack runs on {tmp_path}.")


def test_a_file_that_is_not_there_is_named_with_what_the_system_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "rows.jsonl"
    monkeypatch.setattr("sys.argv", ["mint", "data", "check", str(missing)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"mint: {missing}: No such file or directory\n"


def test_doctor_reports_on_this_machine(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--dir", str(tmp_path)])
    assert result.exit_code in {0, 1}
    for subject in (
        "python",
        "torch",
        "postgres",
        "nats",
        "cores",
        "memory",
        "disk",
        "gateway port",
        "bases",
    ):
        assert subject in result.output


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("mint rollb", ["rollback"]),
        ("mint revision li", ["list", "lineage"]),
        ("mint webhook ro", ["rotate"]),
    ],
)
def test_the_shell_completes_commands(words: str, completed: list[str]) -> None:
    environ = {
        **os.environ,
        "_MINT_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    command = [str(Path(sys.executable).with_name("mint"))]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.stdout.split() == completed


def modules_after(*commands: str) -> set[str]:
    """Return what is loaded when the help of some commands has been printed; of none, that of `mint`."""
    code = (
        "import json, sys; from typer.testing import CliRunner; from mint_client.cli import app;"
        f"[CliRunner().invoke(app, [*each.split(), '--help']) for each in {commands or ('',)}];"
        "print(json.dumps(list(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_commands_begin_without_the_libraries_of_models() -> None:
    loaded = modules_after(*filter(None, COMMANDS))
    assert {"services.standalone.commands.up", "mint_client.commands.train"} <= loaded
    assert not {"torch", "transformers", "vllm", "matplotlib"} & loaded


def test_the_list_of_commands_loads_none_and_a_clients_command_nothing_of_a_stack() -> None:
    assert not {"httpx", "services", "mint_client.commands"} & modules_after()
    assert not {"numpy", "services"} & modules_after("job list", "train", "data check")


def test_a_plan_is_of_a_config_a_base_or_a_folder(tmp_path: Path) -> None:
    run("base", "add", "tiny", "--name", "mine", "--dir", str(tmp_path))
    alike = {
        run("plan", model, "--dir", str(tmp_path)).partition("context")[0]
        for model in ("mine", "tiny", str(tiny_folder()), str(tiny_folder() / "config.json"))
    }
    assert len(alike) == 1
    planned = run("plan", "mine", "--fleet", "3x80GB", "--dir", str(tmp_path))
    assert "3x80GB hold a trainer on 1 and 2 x engine on 1." in planned
    told = json.loads(run("plan", "mine", "--json", "--dtype", "float32", "--dir", str(tmp_path)))
    assert (told["parameters"], told["weights"]) == (477_248, 4 * 477_248)
    assert [use["device"] for use in told["machine"]["devices"]] == ["host"]
    assert isinstance(refusal("plan", "mine", "--fleet", "1x3GB", "--dir", str(tmp_path)), FleetTooSmallError)
    assert isinstance(refusal("plan", "nobody", "--dir", str(tmp_path)), BaseMissingError)


def test_a_plan_says_whether_this_machine_has_room_also_of_a_base_that_is_not_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow, wide = (
        run("plan", "smollm2", "--dtype", dtype, "--dir", str(tmp_path)) for dtype in ("bfloat16", "float32")
    )
    assert "135 M parameters" in narrow
    assert "in bfloat16 269 MB of weights" in narrow
    assert "in float32 538 MB of weights" in wide
    here = [text.partition("trainer and engine here")[2].split()[1:4] for text in (narrow, wide)]
    assert here[0] != here[1]
    memory = SimpleNamespace(total=1 << 30, available=1 << 29)
    monkeypatch.setattr(plan_command.psutil, "virtual_memory", lambda: memory)
    small = run("plan", "smollm2", "--dir", str(tmp_path))
    assert "of 1.07 GB: does not fit; 537 MB of the host's are free now" in small


@pytest.mark.parametrize(
    ("arguments", "total", "problem"),
    [
        ((), 3_000_000, "needs 3.82 MB of memory in trainers and engines, and this machine has 3 MB in all"),
        ((), 3_000_000, "With --dtype bfloat16 it is 1.91 MB, which fits"),
        (("--engines", "3"), 7_000_000, r"tiny \(7.64 MB\)"),
        (("--dtype", "bfloat16"), 1_000_000, "it is 1.91 MB: take a smaller base"),
    ],
)
def test_a_base_that_does_not_fit_is_refused_before_the_start_with_what_would(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    total: int,
    problem: str,
) -> None:
    monkeypatch.setattr(memory, "usable_gpus", lambda: ())
    seen = memory.psutil.virtual_memory()._replace(total=total)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: seen)
    port = str(free_port())
    error = refusal("up", "--base", "tiny", *arguments, "--port", port, "--dir", str(tmp_path))
    assert isinstance(error, NoRoomError)
    assert re.search(problem, str(error))
    assert not (tmp_path / "state.json").exists()
