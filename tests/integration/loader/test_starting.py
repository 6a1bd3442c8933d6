"""What an engine is started with: vLLM's own names, and none of MinT's given twice."""

import dataclasses
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from mint_common.adapters_format import BaseFacts
from mint_common.errors import SettingInvalid
from services.loader.adapters.vllm.starting import (
    EngineConfig,
    engine_arguments,
    engine_config,
    find_device,
    plan_for_device,
    prepare_device,
    reasoning_parsers,
    start_engine,
)
from services.loader.core.execution import OWNED, Asked, Device, Execution
from services.loader.core.parsing import OTHER_NAMES, TOOLS
from tests.integration.loader.conftest import BASE_DIR, builder_config

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def config(facts: BaseFacts, execution: Execution) -> EngineConfig:
    return EngineConfig(
        base_dir=BASE_DIR,
        facts=facts,
        max_context=64,
        slots=1,
        host_capacity=1,
        max_sequences=8,
        max_logprobs=1,
        threads=1,
        compile_seconds=5,
        execution=execution,
    )


def test_the_device_here_is_what_vllm_says() -> None:
    assert find_device() == Device(kind="cpu", count=1, has_bfloat16=True)


def test_every_argument_that_mint_gives_is_refused_from_others(facts: BaseFacts) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    execution = Execution(
        dtype="bfloat16", tensor_parallel=2, pipeline_parallel=2, gpu_memory_utilization=0.5
    )
    arguments = engine_arguments(config(facts, execution))
    stock = AsyncEngineArgs(model=str(BASE_DIR))
    names = [field.name for field in dataclasses.fields(AsyncEngineArgs)]
    given = {name for name in names if getattr(arguments, name) != getattr(stock, name)}
    assert given <= OWNED.keys()
    assert OWNED.keys() <= set(names)


def test_two_starts_of_an_engine_share_their_compiled_graphs(facts: BaseFacts) -> None:
    made = config(facts, Execution(dtype="bfloat16"))
    first, second = (engine_config(engine_arguments(made)).compute_hash() for _ in range(2))
    assert first == second


def test_a_configuration_without_routes_stays_so_beside_one_with(facts: BaseFacts) -> None:
    # vLLM's engine process checks its configuration again, and there routes may be refused.
    made = config(facts, Execution(dtype="bfloat16"))
    plain = engine_config(engine_arguments(made))
    engine_arguments(made, returns_routes=True)
    with pytest.raises(ValueError, match="Runner V2"):
        engine_config(engine_arguments(made, returns_routes=True))  # as on a CPU
    assert not plain.aux_output_config.enabled


def test_on_cuda_nothing_needs_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_USE_FLASHINFER_SAMPLER", raising=False)
    monkeypatch.setenv("VLLM_COMPUTE_NANS_IN_LOGITS", "0")
    prepare_device(Device(kind="cuda", count=1, has_bfloat16=True), workers=1)
    assert os.environ["VLLM_USE_FLASHINFER_SAMPLER"] == "0"


def test_every_structure_is_for_the_backend_that_is_bounded(facts: BaseFacts) -> None:
    arguments = engine_arguments(config(facts, Execution(dtype="bfloat16")))
    assert arguments.structured_outputs_config.backend == "xgrammar"


def test_another_argument_of_vllm_reaches_it(facts: BaseFacts) -> None:
    asked = Asked(engine_args='{"max_num_batched_tokens": 777, "enable_prefix_caching": false}')
    execution = plan_for_device(asked, base_dir=BASE_DIR, threads=1)
    arguments = engine_arguments(config(facts, execution))
    assert arguments.max_num_batched_tokens == 777
    assert arguments.enable_prefix_caching is False


def test_an_override_of_the_config_keeps_the_correction_of_a_window(facts: BaseFacts) -> None:
    asked = Asked(engine_args='{"hf_overrides": {"logit_scale": 0.5, "sliding_window": 99}}')
    execution = plan_for_device(asked, base_dir=BASE_DIR, threads=1)
    wide = replace(facts, architecture="Cohere2ForCausalLM", window=16)
    arguments = engine_arguments(config(wide, execution))
    assert arguments.hf_overrides == {"logit_scale": 0.5, "sliding_window": 15}


@pytest.mark.parametrize(
    ("asked", "setting", "problem"),
    [
        (Asked(engine_args='{"max_num_batched_token": 1}'), "ENGINE_ARGS", "near: max_num_batched_tokens"),
        (Asked(tensor_parallel=3), "TENSOR_PARALLEL", "4 attention heads"),
    ],
)
def test_what_vllm_or_the_base_does_not_take_is_refused(asked: Asked, setting: str, problem: str) -> None:
    with pytest.raises(SettingInvalid, match=f"MINT_LOADER_{setting}: .*{problem}"):
        plan_for_device(asked, base_dir=BASE_DIR, threads=1)


def test_a_value_that_vllm_refuses_names_its_argument(facts: BaseFacts, tmp_path: Path) -> None:
    from mint_common.runtime.clock import SystemClock
    from services.loader.adapters.builder.client import Builder

    execution = plan_for_device(
        Asked(engine_args='{"max_num_batched_tokens": -5}'), base_dir=BASE_DIR, threads=1
    )
    builder = Builder(builder_config(BASE_DIR, tmp_path), SystemClock())
    with pytest.raises(SettingInvalid, match=r"MINT_LOADER_ENGINE_ARGS: .*max_num_batched_tokens"):
        start_engine(config(facts, execution), builder)


def test_a_base_that_sees_images_is_planned_by_its_text_model(tmp_path: Path) -> None:
    text = {"num_attention_heads": 6, "linear_key_head_dim": 128}
    (tmp_path / "config.json").write_text(json.dumps({"text_config": text, "vision_config": {}}))
    assert plan_for_device(Asked(), base_dir=tmp_path, threads=1).dtype == "bfloat16"
    with pytest.raises(SettingInvalid, match=r"TENSOR_PARALLEL: .*6 attention heads"):
        plan_for_device(Asked(tensor_parallel=4), base_dir=tmp_path, threads=1)
    with pytest.raises(SettingInvalid, match=r"DTYPE: .*gated delta nets"):
        plan_for_device(Asked(dtype="float32"), base_dir=tmp_path, threads=1)


def test_vllm_has_every_parser_and_looks_for_every_mark() -> None:
    import vllm.parser
    import vllm.tool_parsers

    known = vllm.tool_parsers.ToolParserManager.list_registered()
    assert {parser for _, parser in TOOLS} <= set(known)
    assert {*OTHER_NAMES.values()} <= set(reasoning_parsers())
    folders = [Path(each.__file__).parent for each in (vllm.parser, vllm.tool_parsers)]
    sources = [file.read_text() for folder in folders for file in folder.glob("*.py")]
    marks = {mark for found, parser in TOOLS for mark in found if parser != "llama3_json"}
    assert {mark for mark in marks if not any(mark in source for source in sources)} == set()
