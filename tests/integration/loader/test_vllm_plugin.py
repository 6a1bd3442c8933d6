"""The repairs inside vLLM are still needed, and do what they say."""

import importlib.util
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from mint_common.errors import Unavailable
from services.loader.adapters import vllm_plugin
from services.loader.adapters.vllm import lora_targets
from services.loader.adapters.vllm.repairs.non_finite import _clean_blocks, zero_new_blocks
from services.loader.adapters.vllm.starting import require_plugin
from services.loader.adapters.vllm_cpu.bare_rows import ignore_rows_without_adapter
from services.loader.adapters.vllm_cpu.moe_backend import compute_experts_with_lora
from services.loader.adapters.vllm_cpu.rotary_heads import rotate_every_token
from services.loader.adapters.vllm_plugin import (
    EXTENSIONS,
    PLUGIN,
    REPAIRS,
    REPAIRS_PLUGIN,
    Extension,
    Repair,
    is_needed,
    register,
    register_repairs,
    vllm_version,
)

if TYPE_CHECKING:
    from vllm.model_executor.layers.rotary_embedding import RotaryEmbedding

pytestmark = [
    pytest.mark.engine,
    # torch's, when vLLM's modules are imported
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

torch = pytest.importorskip("torch")


def _as_shipped(*parts: str) -> ModuleType:
    """Load a module of vLLM once more, beside the one that the plugin may have repaired."""
    package = importlib.util.find_spec("vllm")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent.joinpath(*parts).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(f"{parts[-1]}_as_shipped", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _operations_as_shipped() -> ModuleType:
    return _as_shipped("lora", "ops", "torch_ops", "lora_ops")


def _delta(operations: ModuleType, indices: list[int]) -> "torch.Tensor":
    """Return what two rows get from two adapters' slots."""
    generator = torch.Generator().manual_seed(0)
    lora_a = torch.randn(2, 1, 3, 4, generator=generator)
    lora_b = torch.randn(2, 1, 5, 3, generator=generator)
    inputs = torch.randn(2, 4, generator=generator)
    hidden = torch.empty(2, 3)
    output = torch.zeros(2, 5)
    index = torch.tensor(indices)
    operations.bgmv_shrink(inputs, lora_a, hidden, index, 1.0)
    operations.bgmv_expand(hidden, lora_b, output, index, True)
    return output


def test_rows_without_an_adapter_are_still_wrong_as_shipped() -> None:
    """When this fails, vLLM is fixed and `ignore_rows_without_adapter` may go."""
    delta = _delta(_operations_as_shipped(), [0, -1])
    last_slot = _delta(_operations_as_shipped(), [0, 1])
    assert torch.equal(delta, last_slot), "the bare row gets the last slot's adapter"


def test_repaired_rows_without_an_adapter_get_nothing() -> None:
    import vllm.lora.ops.torch_ops.lora_ops as operations

    ignore_rows_without_adapter()
    ignore_rows_without_adapter()
    delta = _delta(operations, [0, -1])
    assert torch.equal(delta[0], _delta(_operations_as_shipped(), [0, 1])[0])
    assert torch.equal(delta[1], torch.zeros(5))


def test_repaired_rows_without_an_adapter_get_nothing_of_one_that_has_overflown() -> None:
    import vllm.lora.ops.torch_ops.lora_ops as operations

    ignore_rows_without_adapter()
    inputs, output = torch.ones(2, 4), torch.ones(2, 5)
    hidden, index = torch.empty(2, 3), torch.tensor([-1, 0])
    operations.bgmv_shrink(inputs, torch.full((1, 1, 3, 4), torch.inf), hidden, index, 1.0)
    operations.bgmv_expand(hidden, torch.full((1, 1, 5, 3), torch.inf), output, index, True)
    assert torch.equal(output[0], torch.ones(5))
    assert not output[1].isfinite().any()


def test_experts_with_lora_still_get_no_cpu_implementation_as_shipped() -> None:
    """When this fails, vLLM has one and `compute_experts_with_lora` may go."""
    shipped = _as_shipped("model_executor", "layers", "fused_moe", "oracle", "unquantized")
    backend, _ = shipped.select_unquantized_moe_backend(SimpleNamespace(is_lora_enabled=True))
    assert backend == shipped.UnquantizedMoeBackend.TRITON


def test_repaired_experts_with_lora_have_a_cpu_implementation() -> None:
    import vllm.model_executor.layers.fused_moe.oracle.unquantized as oracle
    import vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method as method

    compute_experts_with_lora()
    compute_experts_with_lora()
    for module in (oracle, method):
        for activation in ("SILU", "GELU", "GELU_TANH", "SWIGLUOAI"):
            backend, experts = module.select_unquantized_moe_backend(_experts(activation))
            assert backend == oracle.UnquantizedMoeBackend.CPU
            assert experts.supports_lora()


def test_experts_of_an_unknown_kind_get_the_implementation_without_lora(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import vllm.model_executor.layers.fused_moe.oracle.unquantized as oracle
    import vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method as method

    asked = []
    monkeypatch.setattr(method, "select_unquantized_moe_backend", None)
    monkeypatch.setattr(oracle, "select_unquantized_moe_backend", asked.append)
    compute_experts_with_lora()
    oracle.select_unquantized_moe_backend(_experts("SWIGLUSTEP"))
    oracle.select_unquantized_moe_backend(_experts("SILU", swiglu_limit=7.0))
    assert [each.is_lora_enabled for each in asked] == [False, False]


def _experts(activation: str, *, swiglu_limit: float | None = None) -> SimpleNamespace:
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation

    return SimpleNamespace(
        is_lora_enabled=True, activation=MoEActivation[activation], swiglu_limit=swiglu_limit
    )


def test_a_module_without_lora_that_is_named_like_a_target_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When the first half fails, vLLM leaves it out by itself and `wrap_what_can_be` may go."""
    from vllm.lora.model_manager import LoRAModelManager

    model = torch.nn.Module()
    model.q_proj = torch.nn.Linear(2, 2)
    model.config = None
    config = SimpleNamespace(target_modules=["q_proj"], fully_sharded_loras=False)
    manager = SimpleNamespace(model=model, lora_config=config, packed_modules_mapping={})
    shipped = LoRAModelManager._match_target_modules
    monkeypatch.setattr(LoRAModelManager, "_match_target_modules", shipped)
    if shipped.__module__ != lora_targets.__name__:
        assert shipped(manager, "q_proj"), "and raises as it finds no wrapper"
    lora_targets.wrap_what_can_be()
    lora_targets.wrap_what_can_be()
    assert not LoRAModelManager._match_target_modules(manager, "q_proj")
    assert not LoRAModelManager._match_target_modules(manager, "k_proj")
    assert [record.__dict__["target"] for record in caplog.records if "target" in record.__dict__] == [
        "q_proj"
    ]


def test_a_server_of_vllm_that_does_not_name_the_plugins_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    applied: list[str] = []
    monkeypatch.setattr(vllm_plugin, "_apply", applied.append)
    for named, expected in (
        (None, False),
        ("", False),
        ("other", False),
        (PLUGIN, True),
        (f"a,{REPAIRS_PLUGIN}", True),
    ):
        applied.clear()
        monkeypatch.delenv("VLLM_PLUGINS", raising=False)
        if named is not None:
            monkeypatch.setenv("VLLM_PLUGINS", named)
        register()
        register_repairs()
        assert bool(applied) is expected, named


def test_an_installation_that_names_another_plugin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    require_plugin()
    stale = EntryPoint(PLUGIN, "services.loader.elsewhere:register", "vllm.general_plugins")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [stale])
    with pytest.raises(Unavailable, match="make install"):
        require_plugin()


@pytest.mark.parametrize("extension", EXTENSIONS, ids=lambda extension: extension.name)
def test_extensions_were_tested_on_this_version(extension: Extension) -> None:
    """When this fails, run test_moe.py on the new version and add it to ``tested_on``."""
    assert vllm_version() in extension.tested_on


@pytest.mark.parametrize("repair", REPAIRS, ids=lambda repair: repair.name)
def test_repairs_apply_only_where_they_are_needed(repair: Repair) -> None:
    assert is_needed(repair, platform="cpu", vllm_version=vllm_version())
    assert not is_needed(repair, platform="other", vllm_version=vllm_version())
    assert repair.upstream.startswith("https://github.com/vllm-project/vllm/")
    if repair.fixed_in is not None:
        major, minor = repair.fixed_in
        assert is_needed(repair, platform=repair.platform, vllm_version=(major, minor - 1))
        assert not is_needed(repair, platform=repair.platform, vllm_version=repair.fixed_in)


def test_vllm_clears_new_blocks_of_a_plain_cache_only_when_it_is_told_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When the first half fails, vLLM does it by itself and `zero_new_blocks` may go."""
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

    spec = FullAttentionSpec(block_size=16, num_kv_heads=2, head_size=64, dtype=torch.bfloat16)
    group = KVCacheGroupSpec(layer_names=["a"], kv_cache_spec=spec)
    cache = KVCacheConfig(num_blocks=4, kv_cache_tensors=[], kv_cache_groups=[group])
    assert not cache.needs_kv_cache_zeroing
    monkeypatch.setattr(KVCacheConfig, "needs_kv_cache_zeroing", KVCacheConfig.needs_kv_cache_zeroing)
    zero_new_blocks()
    assert cache.needs_kv_cache_zeroing


def _buffer(rows: list[list[int]]) -> SimpleNamespace:
    return SimpleNamespace(cpu=torch.tensor(rows))


def test_blocks_and_recurrent_states_of_a_request_are_made_finite() -> None:
    """The second request has token 2 alone, in block 2 of the attention's cache, and state 3."""
    attention = torch.full((4, 1, 2, 8), torch.nan)
    states = torch.full((4, 5), torch.nan), torch.full((4, 2, 2), torch.inf)
    tables = [
        SimpleNamespace(block_table=_buffer([[1], [2]]), num_blocks_per_row=[1, 1], slot_mapping=_buffer([])),
        SimpleNamespace(block_table=_buffer([[1], [3]]), num_blocks_per_row=[1, 1], slot_mapping=_buffer([])),
    ]
    for table in tables:
        table.slot_mapping.cpu, table.slot_mapping.gpu = torch.zeros(3), torch.tensor([2, 3, 4])
    context = {"a": SimpleNamespace(kv_cache=attention), "s": SimpleNamespace(kv_cache=states)}
    runner = SimpleNamespace(
        compilation_config=SimpleNamespace(static_forward_context=context),
        attn_groups=[[SimpleNamespace(layer_names=["a"])], [SimpleNamespace(layer_names=["s"])]],
        input_batch=SimpleNamespace(block_table=SimpleNamespace(block_tables=tables)),
    )
    assert _clean_blocks(runner, 1, slice(2, 3)) == {2, 3}
    for cache, clean in ((attention, 2), (states[0], 3), (states[1], 3)):
        assert [bool(block.isfinite().all()) for block in cache] == [at == clean for at in range(4)]


def test_cpu_generators_still_have_no_offset() -> None:
    """When this fails, torch has one and `keep_generators` may go."""
    with pytest.raises(RuntimeError, match="offset"):
        torch.Generator().get_offset()


def _attended(*, key_behind: float, value_behind: float) -> "torch.Tensor":
    """Return what vLLM's kernel makes of two short sequences, and what lies behind their ends."""
    from vllm import _custom_ops as ops
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    current_platform.import_kernels()
    block, heads, width, lengths = 128, 2, 64, (5, 131)
    isa = _get_attn_isa(torch.float32, block, width)
    places = torch.cat([torch.arange(lengths[0]), torch.arange(lengths[1]) + block])
    cache = torch.zeros(3, heads, 2 * block, width)
    keys, values = cache.chunk(2, dim=2)
    behind = torch.ones(3 * block, heads, width)
    everywhere = torch.arange(3 * block)
    ops.cpu_attn_reshape_and_cache(behind * key_behind, behind * value_behind, keys, values, everywhere, isa)
    own = torch.randn(3, len(places), heads, width, generator=torch.Generator().manual_seed(0))
    ops.cpu_attn_reshape_and_cache(own[1], own[2], keys, values, places, isa)
    starts = torch.tensor([0, lengths[0], sum(lengths)], dtype=torch.int32)
    common = {
        "seq_lens": torch.tensor(lengths, dtype=torch.int32),
        "query_start_loc": starts,
        "causal": True,
    }
    plan = ops.cpu_attn_get_scheduler_metadata(
        num_reqs=2,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width,
        dtype=torch.float32,
        sliding_window_size=-1,
        isa=isa,
        enable_kv_split=True,
        **common,
    )
    output = torch.empty_like(own[0])
    ops.cpu_attention_with_kv_cache(
        own[0],
        keys,
        values,
        output,
        scale=width**-0.5,
        alibi_slopes=None,
        sliding_window=-1,
        softcap=0,
        block_table=torch.tensor([[0, 0], [1, 2]], dtype=torch.int32),
        scheduler_metadata=plan,
        s_aux=None,
        **common,
    )
    return output


def _latent_heads(*, flat: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return queries of 4 heads and a key that is part of a wider row, as latent attention has them."""
    random = torch.Generator().manual_seed(0)
    query, row = torch.randn(7, 4, 64, generator=random), torch.randn(7, 128, generator=random)
    return (query.flatten(1), row[:, 64:].contiguous()) if flat else (query, row[:, 64:].unsqueeze(1))


def _rope() -> "RotaryEmbedding":
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding import get_rope

    parameters = {"rope_theta": 10000.0, "rope_type": "default"}
    with set_current_vllm_config(VllmConfig()):
        return get_rope(64, max_position=32, rope_parameters=parameters, is_neox_style=False)


@pytest.mark.parametrize("flat", [False, True])
def test_repaired_heads_are_rotated_by_their_own_position(flat: bool) -> None:
    rotate_every_token()
    rotate_every_token()
    found = _rope().forward_cpu(torch.arange(7), *_latent_heads(flat=flat))
    right = _rope().forward_native(torch.arange(7), *_latent_heads(flat=flat))
    for ours, expected in zip(found, right, strict=True):
        assert torch.allclose(ours, expected, atol=1e-6)


def test_heads_that_stand_apart_are_still_rotated_wrongly_as_shipped() -> None:
    """When this fails, the kernel is fixed and `rotate_every_token` may go."""
    from vllm import _custom_ops as ops

    rope, positions = _rope(), torch.arange(7)
    for flat in (True, False):
        heads = _latent_heads(flat=flat)
        right = rope.forward_native(positions, *heads)
        ops.rotary_embedding(positions, *heads, 64, rope.cos_sin_cache, False)
        errors = [float((ours - one).abs().max()) for ours, one in zip(heads, right, strict=True)]
        assert max(errors) < 1e-6 if flat else min(errors) > 1


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_value_behind_a_sequences_end_still_reaches_its_result_as_shipped(value: float) -> None:
    """When this fails, the kernel is fixed and `keep_blocks_finite` may clean no blocks any more."""
    assert not _attended(key_behind=0.0, value_behind=value).isfinite().all()


@pytest.mark.parametrize(("key", "value"), [(torch.nan, 0.0), (torch.inf, 0.0), (3e38, 3e38), (-3e38, -3e38)])
def test_keys_and_finite_values_behind_a_sequences_end_have_no_part(key: float, value: float) -> None:
    """What `keep_blocks_finite` builds on: it looks for nothing else."""
    quiet = _attended(key_behind=0.0, value_behind=0.0)
    assert torch.equal(_attended(key_behind=key, value_behind=value), quiet)
