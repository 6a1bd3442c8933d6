"""What a stack file will hold of each device: on a CPU, on shared and on several GPUs."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner
from unit.standalone.test_model_shape import QWEN3_4B

from mint_client.cli import app
from mint_common.adapters_format import read_base_facts
from mint_common.errors import SettingInvalid
from services.loader.settings import LoaderSettings
from services.standalone.adapters.base_import import SMOLLM2_CONFIG
from services.standalone.adapters.bases import tiny_folder
from services.standalone.adapters.stack_file import load_stack_file
from services.standalone.adapters.stack_parts import read_parts
from services.standalone.core.fleet import RESERVE_BYTES
from services.standalone.core.stack_memory import Holding, StackMemory, plan_memory

GB = 10**9
CPU = """\
bases:
  tiny:
    engines:
      - {slots: 4, host_capacity: 8, kv_cache_bytes: 67108864}
    trainer: {resident_policies: 4, host_policies: 2, microbatch_tokens: 512}
"""
GPUS = """\
bases:
  qwen:
    engines:
      - {devices: [0], gpu_memory_utilization: 0.5}
      - {devices: [1, 2], tensor_parallel: 2}
    trainer: {devices: [0], memory_share: 0.4}
"""


def planned(folder: Path, text: str, gpus: dict[int, int], **overrides: str) -> StackMemory:
    (folder / "mint.yaml").write_text(text)
    if not (folder / "qwen").exists():
        (folder / "qwen").mkdir()
        (folder / "qwen/config.json").write_text(json.dumps(QWEN3_4B))
    asked = load_stack_file(folder / "mint.yaml")
    named = {"qwen": str(folder / "qwen")}
    plans = {named.get(name, name): plan for name, plan in asked.bases.items()}
    parts = read_parts(folder, plans, overrides=overrides, gpus=list(gpus))
    return plan_memory(parts, host_bytes=64 * GB, gpu_bytes=gpus)


def held(memory: StackMemory, part: str, device: str) -> Holding:
    (found,) = [each for each in memory.holdings if (each.part, each.device) == (part, device)]
    return found


def test_without_a_gpu_everything_is_in_the_machines_memory(tmp_path: Path) -> None:
    memory = planned(tmp_path, CPU, {})
    assert {each.device for each in memory.holdings} == {"host"}
    engine, trainer = (held(memory, f"{kind}-tiny", "host") for kind in ("loader", "trainer"))
    facts = read_base_facts(tiny_folder())
    adapter = 16 * sum(map(sum, facts.modules.values()))
    weights = 4 * 477_248
    assert (engine.weights, trainer.weights) == (weights, weights)
    assert (engine.kv_cache, engine.slots) == (64 << 20, 4 * 4 * adapter)
    assert engine.staged == (8 + 3) * 4 * adapter
    assert trainer.policies == (4 * 16 + 2 * 12 + 16) * adapter
    assert memory.devices[0].total == engine.total + trainer.total
    assert memory.fits


def test_a_narrow_base_keeps_a_wide_head_and_wide_inputs_of_lora(tmp_path: Path) -> None:
    wide, narrow = (
        held(planned(tmp_path, CPU, {}, MINT_TRAINER_DTYPE=dtype), "trainer-tiny", "host")
        for dtype in ("float32", "bfloat16")
    )
    assert narrow.weights == wide.weights // 2 + 4 * 264 * 128
    assert wide.activations / 2 < narrow.activations <= wide.activations
    again = planned(tmp_path, CPU, {}, MINT_TRAINER_CHECKPOINTING="on")
    assert held(again, "trainer-tiny", "host").activations < wide.activations


def test_gpus_hold_weights_and_the_machine_what_waits(tmp_path: Path) -> None:
    memory = planned(tmp_path, GPUS, dict.fromkeys(range(3), 80 * GB))
    assert memory.fits
    shared, trainer = held(memory, "loader-qwen", "GPU 0"), held(memory, "trainer-qwen", "GPU 0")
    assert (shared.limit, trainer.limit) == (40 * GB, 32 * GB)
    assert shared.total == shared.limit
    assert trainer.weights == 2 * 4_022_468_096
    first, second = (held(memory, "loader-qwen-2", f"GPU {index}") for index in (1, 2))
    assert first.weights == second.weights == 4_022_468_096
    assert shared.staged == trainer.runtime - RESERVE_BYTES == 0
    assert held(memory, "loader-qwen", "host").staged > 0
    assert held(memory, "trainer-qwen", "host").policies > 0


@pytest.mark.parametrize("share", ["0.4", "1.0"])
def test_a_small_base_with_a_large_vocabulary_is_trained_on_a_gpu(tmp_path: Path, share: str) -> None:
    (tmp_path / "qwen").mkdir()
    (tmp_path / "qwen/config.json").write_text(json.dumps(SMOLLM2_CONFIG))
    trainer_only = f"{{devices: [0], memory_share: {share}}}"
    alone = f"bases:\n  qwen:\n    engines: [{{devices: [1]}}]\n    trainer: {trainer_only}\n"
    memory = planned(tmp_path, alone, dict.fromkeys(range(2), 80 * GB))
    trainer = held(memory, "trainer-qwen", "GPU 0")
    assert trainer.fits, "logits are of a chunk of targets, not of a whole micro-batch"
    assert trainer.activations > trainer.limit // 4, "half of the free memory"


def test_policies_of_several_ranks_and_the_whole_arena_are_in_host_memory(tmp_path: Path) -> None:
    sharded = GPUS.replace("devices: [0], memory_share: 0.4", "devices: [0, 3], ranks: 2, sharding: fsdp")
    sharded = sharded.replace("engines:\n      - {devices: [0], gpu_memory_utilization: 0.5}", "engines:")
    memory = planned(tmp_path, sharded, dict.fromkeys(range(4), 80 * GB))
    one = planned(tmp_path, GPUS, dict.fromkeys(range(4), 80 * GB))
    ranks = [held(memory, "trainer-qwen", f"GPU {gpu}") for gpu in (0, 3)]
    moved = held(one, "trainer-qwen", "GPU 0").policies - ranks[0].policies
    assert ranks[0].policies == ranks[1].policies
    assert held(memory, "trainer-qwen", "host").policies == held(one, "trainer-qwen", "host").policies + moved
    assert held(memory, "loader-qwen", "host").staged > LoaderSettings.model_fields["host_bytes"].default


@pytest.mark.parametrize(("size", "index"), [(16, 0), (6, 1)])
def test_a_gpu_without_room_is_named(tmp_path: Path, size: int, index: int) -> None:
    memory = planned(tmp_path, GPUS, {**dict.fromkeys(range(3), 80 * GB), index: size * GB})
    assert [each.device for each in memory.devices if not each.fits] == [f"GPU {index}"]
    assert not memory.fits


def test_a_gpu_that_is_not_there_has_no_room(tmp_path: Path) -> None:
    memory = planned(tmp_path, GPUS, {0: 80 * GB})
    assert [each.device for each in memory.devices if not each.fits] == ["GPU 1", "GPU 2"]


def test_a_setting_that_a_part_would_refuse_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="MINT_LOADER_SLOTS"):
        planned(tmp_path, CPU.replace("slots: 4", "slots: none"), {})


def test_the_command_prints_json_and_fails_where_there_is_no_room(tmp_path: Path) -> None:
    file = tmp_path / "mint.yaml"
    file.write_text(CPU)
    run = CliRunner().invoke(app, ["plan", "-f", str(file), "--dir", str(tmp_path / "state"), "--json"])
    answer = json.loads(run.stdout)
    assert (run.exit_code, answer["fits"]) == (0, True)
    assert {each["part"] for each in answer["holdings"]} == {"loader-tiny", "trainer-tiny"}
    file.write_text(CPU.replace("slots: 4", "slots: 4, devices: [0], gpu_memory_utilization: 0.01"))
    command = ["plan", "-f", str(file), "--dir", str(tmp_path / "state"), "--fleet", "1x8GB"]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 1
    assert "GPU 0: " in run.stdout
    assert "does not fit" in run.stdout
    assert CliRunner().invoke(app, ["plan"]).exit_code == 2
