"""Adapters of experts at real widths, and vLLM's code to load them without the model, which is too big."""

import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any  # vLLM's objects: it has no types

import numpy as np

from benches.adapters import write_adapter
from mint_common.adapters_format import (
    DENSE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    BaseFacts,
    ExpertsFacts,
    build_adapter,
    convert_adapter,
    packed_name,
    peft_name,
    read_manifest,
)
from mint_common.adapters_format.tensor_file import PAD_DTYPE, read_header
from mint_common.ids import BaseName, PolicyId, sha256_digest

LAYERS, EXPERTS = 48, 128
WIDTH, EXPERT_WIDTH = 2048, 768
HEADS_OUT, KEYS_OUT = 4096, 512


class BareLoader:
    """vLLM's loading code with what it asks of a model, but no model."""

    def __init__(self) -> None:
        import torch

        self._dtype = torch.float16
        self._slot: list[Any] = []
        blocks = [f"model.layers.{layer}" for layer in range(LAYERS)]
        leaves = [f"experts.{e}.{leaf}_proj" for e in range(EXPERTS) for leaf in ("gate", "down", "up")]
        self._expected = {*leaves, "experts", "q_proj", "k_proj", "v_proj", "o_proj"}
        attention = ("q_proj", "k_proj", "v_proj")
        self._packed_modules: dict[str, list[str]] = {}
        for block in blocks:
            routed, fused = f"{block}.mlp.experts", f"{block}.self_attn.qkv_proj"
            self._packed_modules[routed] = [f"{block}.mlp.{leaf}" for leaf in leaves]
            self._packed_modules[fused] = [f"{block}.self_attn.{leaf}" for leaf in attention]
        alone = [f"{block}.self_attn.o_proj" for block in blocks]
        self._modules = {name: SimpleNamespace() for name in (*self._packed_modules, *alone)}

    def load_per_expert(self, folder: Path) -> None:
        """Load as vLLM does by itself."""
        from vllm.lora.lora_model import LoRAModel
        from vllm.lora.peft_helper import PEFTHelper

        lora = LoRAModel.from_local_checkpoint(
            str(folder),
            self._expected,
            PEFTHelper.from_local_dir(str(folder), WIDTH),
            lora_model_id=1,
            device="cpu",
            dtype=self._dtype,
        )
        self._finish(self._manager(), lora)

    def load_packed(self, folder: Path) -> None:
        """Load views of one mapping of the file, as the engine does with what a builder laid out."""
        from services.loader.adapters.vllm.lora_models import model_of
        from services.loader.adapters.vllm.module_names import renaming

        manager = self._manager()
        config = SimpleNamespace(max_lora_rank=8, lora_dtype=self._dtype)
        worker_manager = SimpleNamespace(lora_config=config, _adapter_manager=manager)
        rank = read_manifest((folder / MANIFEST_FILE).read_bytes()).rank
        tensors = _map_packed(folder / WEIGHTS_FILE, dtype=self._dtype)
        lora = model_of(worker_manager, tensors, rank=rank, number=1, rename=renaming(manager))
        self._finish(manager, lora)

    def _manager(self) -> Any:
        import torch
        from vllm.lora.model_manager import LoRAModelManager

        manager = object.__new__(LoRAModelManager)
        manager.packed_modules = self._packed_modules
        manager.modules = self._modules
        manager.model = torch.nn.Module()
        manager._use_ep = manager.is_pooling_model = manager._enable_moe_shared_loras = False
        manager._is_non_gated_moe = manager._enable_mixed_moe_lora_format = False
        manager.moe_ep_load_spec = None
        return manager

    def _finish(self, manager: Any, lora: Any) -> None:
        import torch

        manager._create_merged_loras_inplace(lora)  # noqa: SLF001  # the code under measurement
        sources = [tensor for name in sorted(lora.loras) for tensor in _tensors(lora.loras[name])]
        if not self._slot:
            self._slot = [torch.ones_like(source) for source in sources]
        for target, source in zip(self._slot, sources, strict=True):
            target.copy_(source)


def _tensors(weights: Any) -> Iterator[Any]:
    for side in (weights.lora_a, weights.lora_b):
        yield from side if isinstance(side, list) else [side]


def _map_packed(path: Path, *, dtype: Any) -> dict[str, Any]:
    """Return the tensors of a packed float16 file as views of one mapping."""
    import torch

    with path.open("rb") as file:
        header = read_header(file, size_bytes=path.stat().st_size)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    mapped.madvise(mmap.MADV_WILLNEED)
    return {
        entry.name: torch.frombuffer(
            mapped, dtype=dtype, count=math.prod(entry.shape), offset=header.data_begin + entry.begin
        ).view(entry.shape)
        for entry in header.tensors
        if entry.dtype != PAD_DTYPE
    }


def real_facts() -> BaseFacts:
    """Return the widths of Qwen3-30B-A3B."""
    blocks = [f"model.layers.{layer}" for layer in range(LAYERS)]
    attention = {
        "q_proj": (WIDTH, HEADS_OUT),
        "k_proj": (WIDTH, KEYS_OUT),
        "v_proj": (WIDTH, KEYS_OUT),
        "o_proj": (HEADS_OUT, WIDTH),
    }
    inward, outward = (WIDTH, EXPERT_WIDTH), (EXPERT_WIDTH, WIDTH)
    experts = ExpertsFacts(
        count=EXPERTS, projections={"down_proj": outward, "gate_proj": inward, "up_proj": inward}
    )
    return BaseFacts(
        name=BaseName("qwen3-30b-a3b"),
        digest=sha256_digest(b"widths only"),
        architecture="Qwen3MoeForCausalLM",
        vocab_size=151936,
        max_context=40960,
        targets=("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"),
        modules={f"{block}.self_attn.{leaf}": sides for block in blocks for leaf, sides in attention.items()},
        max_rank=8,
        experts={f"{block}.mlp.experts": experts for block in blocks},
    )


def write_both(facts: BaseFacts, folder: Path, *, rank: int, dtype: type[np.floating]) -> tuple[Path, Path]:
    """Write one adapter of random weights packed and per expert; return both folders."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape, dtype=np.float32) * np.float32(0.05)).astype(dtype)

    tensors = {}
    for module, (width_in, width_out) in facts.modules.items():
        tensors[peft_name(module, "A")] = draw(rank, width_in)
        tensors[peft_name(module, "B")] = draw(width_out, rank)
    for module, layer in facts.experts.items():
        for leaf, (width_in, width_out) in layer.projections.items():
            tensors[packed_name(module, leaf, "A")] = draw(layer.count, rank, width_in)
            tensors[packed_name(module, leaf, "B")] = draw(layer.count, width_out, rank)
    files = build_adapter(
        facts=facts, policy_id=PolicyId("bench"), step=1, parent=None, rank=rank, tensors=tensors
    )
    packed, split = write_adapter(files, folder / "packed"), folder / "per-expert"
    convert_adapter(facts, packed, split, layout=DENSE)
    return packed, split
