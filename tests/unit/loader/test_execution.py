"""What an engine computes in is chosen for the device, and what cannot take effect is refused by name."""

from dataclasses import replace
from typing import Any

import pytest

from mint_common.errors import SettingInvalid
from mint_common.settings import read_settings
from services.loader.app import asked as asked_by
from services.loader.core.execution import OWNED, Asked, Device, Execution, plan_execution
from services.loader.settings import LoaderSettings
from tests.unit.loader.test_settings import ENVIRON

CPU = Device(kind="cpu", count=1, has_bfloat16=True)
GPUS = Device(kind="cuda", count=2, has_bfloat16=True)
OLD_GPU = Device(kind="cuda", count=1, has_bfloat16=False)
ARGUMENTS = (*OWNED, "max_num_batched_tokens", "kv_cache_dtype", "block_size", "quantization")


def plan(asked: Asked, device: Device, *, has_ray: bool = False, **base: Any) -> Execution:
    return plan_execution(asked, device=device, heads=4, arguments=ARGUMENTS, has_ray=has_ray, **base)


def test_a_cpu_computes_in_float32_eagerly_with_a_cache_of_a_fixed_size() -> None:
    assert plan(Asked(), CPU) == Execution(dtype="float32", eager=True, kv_cache_bytes=256 << 20)


def test_a_quantized_base_computes_in_16_bits_where_there_are_kernels_for_it() -> None:
    assert plan(Asked(), CPU, quantization="awq").dtype == "bfloat16"
    assert plan(Asked(), GPUS, quantization="fp8").dtype == "bfloat16"
    with pytest.raises(SettingInvalid, match=r"MINT_LOADER_BASE_DIR: the base is quantized \(fp8\)"):
        plan(Asked(), CPU, quantization="fp8")
    with pytest.raises(SettingInvalid, match=r"MINT_LOADER_DTYPE: .* computes in bfloat16"):
        plan(Asked(dtype="float32"), CPU, quantization="gptq")


def test_gated_delta_nets_compute_in_16_bits_on_a_cpu() -> None:
    assert plan(Asked(), CPU, has_delta_nets=True).dtype == "bfloat16"
    assert plan(Asked(), OLD_GPU, has_delta_nets=True).dtype == "float16"
    with pytest.raises(SettingInvalid, match=r"MINT_LOADER_DTYPE: the base has gated delta nets"):
        plan(Asked(dtype="float32"), CPU, has_delta_nets=True)


def test_a_gpu_computes_in_bfloat16_with_graphs_and_vllm_sizes_the_cache() -> None:
    assert plan(Asked(), GPUS) == Execution(
        dtype="bfloat16", eager=False, kv_cache_bytes=None, max_sequences=256, has_arena=True
    )
    assert plan(Asked(), OLD_GPU).dtype == "float16"


def test_what_is_asked_for_is_taken() -> None:
    asked = Asked(
        dtype="float16",
        tensor_parallel=2,
        gpu_memory_utilization=0.5,
        kv_cache_bytes=1 << 30,
        max_sequences=100,
        eager=True,
        engine_args='{"max_num_batched_tokens": 8192}',
    )
    assert plan(asked, GPUS) == Execution(
        dtype="float16",
        tensor_parallel=2,
        gpu_memory_utilization=0.5,
        kv_cache_bytes=1 << 30,
        max_sequences=100,
        eager=True,
        has_arena=True,
        engine_args={"max_num_batched_tokens": 8192},
    )
    on_ray = plan(Asked(executor="ray", tensor_parallel=4), GPUS, has_ray=True)
    assert (on_ray.executor, on_ray.has_arena) == ("ray", False)
    assert plan(Asked(dtype="bfloat16", tensor_parallel=2), CPU).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("asked", "device", "setting", "problem"),
    [
        (Asked(dtype="float32"), GPUS, "DTYPE", "bfloat16 or float16"),
        (Asked(dtype="bfloat16"), OLD_GPU, "DTYPE", "float16 is there"),
        (Asked(dtype="float16"), CPU, "DTYPE", "float32 and bfloat16"),
        (Asked(gpu_memory_utilization=0.5), CPU, "GPU_MEMORY_UTILIZATION", "MINT_LOADER_KV_CACHE_BYTES"),
        (Asked(eager=False), CPU, "EAGER", "CUDA graphs"),
        (Asked(pipeline_parallel=2), CPU, "PIPELINE_PARALLEL", "one stage"),
        (Asked(tensor_parallel=3), CPU, "TENSOR_PARALLEL", "4 attention heads; 1, 2, 4 do"),
        (Asked(tensor_parallel=4), GPUS, "TENSOR_PARALLEL", "4 workers .* sees 2"),
        (Asked(tensor_parallel=2, pipeline_parallel=2), GPUS, "PIPELINE_PARALLEL", "4 workers .* sees 2"),
        (Asked(executor="ray"), GPUS, "EXECUTOR", "not installed"),
        (Asked(engine_args="{"), CPU, "ENGINE_ARGS", "must be JSON"),
        (Asked(engine_args="[]"), CPU, "ENGINE_ARGS", "JSON object"),
        (Asked(engine_args='{"kv_cache_dtype": "fp8"}'), CPU, "ENGINE_ARGS", "kv_cache_dtype: .* not fp8"),
        (Asked(engine_args='{"dtype": "half"}'), CPU, "ENGINE_ARGS", "dtype: .* set MINT_LOADER_DTYPE"),
        (Asked(engine_args='{"seed": 1}'), CPU, "ENGINE_ARGS", "seed: .* cannot be changed"),
        (Asked(engine_args='{"blocksize": 1}'), CPU, "ENGINE_ARGS", "blocksize: .* near: block_size"),
        (Asked(engine_args='{"zzz": 1}'), CPU, "ENGINE_ARGS", "no such engine argument$"),
    ],
)
def test_what_cannot_take_effect_is_refused(asked: Asked, device: Device, setting: str, problem: str) -> None:
    with pytest.raises(SettingInvalid, match=f"MINT_LOADER_{setting}: .*{problem}"):
        plan(asked, device)


def test_a_base_that_does_not_tell_its_heads_is_left_to_vllm() -> None:
    execution = plan_execution(
        Asked(tensor_parallel=3), device=CPU, heads=None, arguments=ARGUMENTS, has_ray=False
    )
    assert execution.tensor_parallel == 3


def test_settings_ask_for_nothing_unless_they_are_set() -> None:
    assert asked_by(read_settings(LoaderSettings, ENVIRON, service="loader")) == Asked()
    given = {"DTYPE": "bfloat16", "EAGER": "true", "KV_CACHE_BYTES": "2097152", "EXECUTOR": "ray"}
    environ = ENVIRON | {f"MINT_LOADER_{name}": value for name, value in given.items()}
    expected = replace(Asked(), dtype="bfloat16", eager=True, kv_cache_bytes=2 << 20, executor="ray")
    assert asked_by(read_settings(LoaderSettings, environ, service="loader")) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [("DTYPE", "int8"), ("EAGER", "maybe"), ("EXECUTOR", "slurm"), ("GPU_MEMORY_UTILIZATION", "1.5")],
)
def test_a_value_that_no_device_takes_is_refused(name: str, value: str) -> None:
    with pytest.raises(SettingInvalid, match=f"MINT_LOADER_{name}: .*{value}"):
        read_settings(LoaderSettings, ENVIRON | {f"MINT_LOADER_{name}": value}, service="loader")
