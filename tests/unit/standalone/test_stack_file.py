"""`mint.yaml`: what it comes to, and that every fault is told with its line and field."""

from pathlib import Path

import pytest

from mint_client.core.tracking import TrackerKind
from mint_common.errors import SettingInvalid
from services.standalone.adapters.stack_file import load_stack_file
from services.standalone.core.plan import TrackerPlan
from services.standalone.core.refusals import StackFileInvalidError
from services.standalone.core.stack_file import StackFile

WHOLE = """\
# A machine with three GPUs.
port: 9000
bases:
  qwen2.5-3b:
    dtype: bfloat16
    engines:
      - devices: [0]
        gpu_memory_utilization: 0.5
        slots: 16
        count: 2
      - devices: [1, 2]
        tensor_parallel: 2
        engine_args: {max_num_batched_tokens: 8192}
    trainer:
      devices: [3]
      dtype: float32
      checkpointing: "on"
  tiny:
"""


def read(folder: Path, text: str) -> StackFile:
    file = folder / "mint.yaml"
    file.write_text(text)
    return load_stack_file(file)


def test_every_part_gets_its_devices_and_settings(tmp_path: Path) -> None:
    with pytest.raises(StackFileInvalidError, match=r"shares of 0.5 \+ 0.5 = 1"):
        read(tmp_path, WHOLE)
    found = read(tmp_path, WHOLE.replace("0.5", "0.4"))
    assert found.port == 9000
    assert list(found.bases) == ["qwen2.5-3b", "tiny"]
    plan = found.bases["qwen2.5-3b"]
    one = {
        "CUDA_VISIBLE_DEVICES": "0",
        "MINT_LOADER_DTYPE": "bfloat16",
        "MINT_LOADER_GPU_MEMORY_UTILIZATION": "0.4",
        "MINT_LOADER_SLOTS": "16",
    }
    parallel = {
        "CUDA_VISIBLE_DEVICES": "1,2",
        "MINT_LOADER_DTYPE": "bfloat16",
        "MINT_LOADER_TENSOR_PARALLEL": "2",
        "MINT_LOADER_ENGINE_ARGS": '{"max_num_batched_tokens": 8192}',
    }
    assert plan.engines == (one, one, parallel)
    assert plan.trainers[0] == {
        "CUDA_VISIBLE_DEVICES": "3",
        "MINT_TRAINER_DTYPE": "float32",
        "MINT_TRAINER_CHECKPOINTING": "on",
    }
    assert (found.bases["tiny"].engines, found.bases["tiny"].trainers) == (({},), ({},))


TOP = "bases:\n  b:\n"


def test_a_base_may_have_several_trainers(tmp_path: Path) -> None:
    alike = read(tmp_path, TOP + "    trainer: {count: 2, threads: 3}\n").bases["b"]
    assert alike.trainers == ({"MINT_TRAINER_THREADS": "3"},) * 2
    apart = read(tmp_path, TOP + "    trainer:\n      - devices: [0]\n      - devices: [1]\n").bases["b"]
    assert apart.trainers == ({"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"})


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("bases: [", 1, "the file"),
        ("", 1, "keys and values, not nothing"),
        ("bases: {}\n", 1, "bases: names no base"),
        ("port: 1\nbase: {}\n", 2, "base: is not known; did you mean bases?"),
        ("bases: {b: }\nport: 70000\n", 2, "port: 70000 is not a port"),
        ("bases:\n  b:\n  b:\n", 3, "b is given twice"),
        (TOP + "    engine: []\n", 3, "bases.b.engine: is not known; did you mean engines?"),
        (TOP + "    engines: []\n", 3, "a list of at least one engine"),
        (TOP + "    engines:\n      - slotz: 1\n", 4, "slotz: is not known; did you mean slots?"),
        (TOP + "    engines:\n      - base_dir: x\n", 4, "base_dir: `mint up` sets"),
        (TOP + "    engines:\n      - count: 0\n", 4, "count: 0 is not a number from 1 to 64"),
        (TOP + "    engines:\n      - devices: 0\n", 4, "devices: must be a list of GPU numbers"),
        (TOP + "    engines:\n      - devices: [0, 0]\n", 4, "or one twice"),
        (TOP + "    engines:\n      - devices: [a]\n", 4, "that is not a GPU number"),
        (TOP + "    engines:\n      - devices: [0, 1]\n", 4, "are 2, but tensor_parallel times"),
        (TOP + "    trainer:\n      ranks: 2\n      devices: [0]\n", 5, "are 1, but ranks is 2"),
        (TOP + "    trainer:\n      threads: [1]\n", 4, "neither text nor a number"),
        (TOP + "    trainer:\n      count: 0\n", 4, "count: 0 is not a number from 1 to 64"),
        (TOP + "    trainer: []\n", 3, "a trainer, or a list of at least one"),
        (TOP + "    trainer:\n      - thread: 1\n", 4, "thread: is not known; did you mean threads?"),
        (
            TOP + "    engines:\n      - devices: [0]\n        gpu_memory_utilization: 0.5\n"
            "    trainer:\n      devices: [0]\n",
            6,
            "GPU 0 is shared by 2 parts",
        ),
        ("bases: &a\n  b: *a\n", 1, "refers to itself"),
    ],
)
def test_a_fault_is_told_with_its_line_and_field(text: str, line: int, problem: str, tmp_path: Path) -> None:
    with pytest.raises(StackFileInvalidError) as caught:
        read(tmp_path, text)
    assert f"mint.yaml, line {line}: " in str(caught.value)
    assert problem in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No such file.*none.yaml"):
        load_stack_file(tmp_path / "none.yaml")


def test_a_value_that_a_service_refuses_is_found_in_the_file(tmp_path: Path) -> None:
    asked = read(tmp_path, TOP + "    dtype: int4\n    engines:\n      - slots: 0\n")
    told = str(asked.located(SettingInvalid(name="MINT_LOADER_SLOTS", problem="too few")))
    assert told.endswith("mint.yaml, line 5: bases.b.engines.0.slots: too few")
    told = str(asked.located(SettingInvalid(name="MINT_TRAINER_DTYPE", problem="no such")))
    assert told.endswith("mint.yaml, line 3: bases.b.dtype: no such")
    both = SettingInvalid(name="MINT_LOADER_DTYPE, MINT_LOADER_SLOTS", problem="slots are too few")
    assert "line 5: bases.b.engines.0.slots: slots are too few" in str(asked.located(both))
    seen = read(tmp_path, TOP + "    trainer:\n      devices: [0]\n")
    told = str(seen.located(SettingInvalid(name="CUDA_VISIBLE_DEVICES", problem="no trainer")))
    assert told.endswith("mint.yaml, line 4: bases.b.trainer.devices: no trainer")
    elsewhere = SettingInvalid(name="MINT_NATS_URL", problem="wrong")
    assert asked.located(elsewhere) is elsewhere


def test_trackers_are_read(tmp_path: Path) -> None:
    mlflow, wandb = "{to: mlflow, at: 'http://127.0.0.1:5000'}", "{to: wandb, project: p}"
    text = f"bases: {{tiny: }}\ntrackers:\n  - {mlflow}\n  - {wandb}\n"
    assert read(tmp_path, text).trackers == [
        TrackerPlan(to=TrackerKind.MLFLOW, at="http://127.0.0.1:5000"),
        TrackerPlan(to=TrackerKind.WANDB, project="p"),
    ]


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ("to: mlflow", "trackers"),
        ("[{to: comet}]", "trackers.0.to"),
        ("[{at: runs}]", "trackers.0.to"),
        ("[{to: mlflow, url: x}]", "trackers.0.url"),
        ("[{to: mlflow, at: 5000}]", "trackers.0.at"),
        ("[mlflow]", "trackers.0"),
    ],
)
def test_a_wrong_tracker_is_refused_by_its_field(entry: str, field: str, tmp_path: Path) -> None:
    with pytest.raises(StackFileInvalidError) as refused:
        read(tmp_path, f"bases: {{tiny: }}\ntrackers: {entry if entry[0] == '[' else '{' + entry + '}'}\n")
    assert (refused.value.field, refused.value.line) == (field, 2)
