"""How much faster does a packed adapter of experts load, and how near is that to reading its bytes?

Live: through vLLM's own `add_lora` on a CPU engine, 48 layers of 128 experts at tiny widths. Real widths:
Qwen3-30B-A3B at rank 1 in 16 bits, through vLLM's own LoRAModel and merging code but without the model, which
does not fit here; either load ends with the copy into a slot, so that a lazily mapped page is paid for.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benches.report import Report, Row, make_row
from benches.serving import scratch_folder
from mint_common.adapters_format import (
    DENSE,
    WEIGHTS_FILE,
    BaseFacts,
    ExpertsFacts,
    build_adapter,
    convert_adapter,
    packed_name,
    peft_name,
    read_manifest,
)
from mint_common.adapters_format.names import MANIFEST_FILE
from mint_common.ids import BaseName, PolicyId, sha256_digest

LAYERS, EXPERTS = 48, 128
LIVE_ROUNDS, REAL_ROUNDS = 9, 7
LIVE_RANK = 4
WIDTH, EXPERT_WIDTH = 2048, 768
HEADS_OUT, KEYS_OUT = 4096, 512

Load = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of each round, in turn."""

    per_expert: list[float]
    packed: list[float]
    read: list[float]

    def ratios(self) -> list[float]:
        """Return per-expert over packed, round by round."""
        return [slow / fast for slow, fast in zip(self.per_expert, self.packed, strict=True)]


def run() -> Report:
    """Measure."""
    os.environ.update(
        OMP_NUM_THREADS="1",
        HF_HUB_OFFLINE="1",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_NO_USAGE_STATS="1",
        VLLM_LOGGING_LEVEL="ERROR",
    )
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
    with scratch_folder() as folder:
        real = measure_real(folder / "real")
        live = measure_live(folder / "live")
    return Report(bench="packed", rows=_rows(live, real), draw=lambda figure: _draw(figure, live, real))


def _rows(live: Times, real: Times) -> list[Row]:
    over_read = [mine / floor for mine, floor in zip(real.packed, real.read, strict=True)]
    return [
        make_row(
            "packed_live_ratio",
            live.ratios(),
            unit="ratio",
            goal=20.0,
            better="higher",
            value=_ratio(live.per_expert, live.packed),
            how=f"add_lora of {_ms(live.per_expert)} ms per expert over {_ms(live.packed)} ms packed, in "
            f"turn; {LAYERS} layers x {EXPERTS} experts x 3, rank {LIVE_RANK}, tiny widths, vLLM on CPU",
        ),
        make_row(
            "packed_real_dims_ratio",
            real.ratios(),
            unit="ratio",
            goal=11.0,
            better="higher",
            value=_ratio(real.per_expert, real.packed),
            limit=_ratio(real.per_expert, real.read),
            how=f"{_ms(real.per_expert)} ms per expert over {_ms(real.packed)} ms packed: read, merge, copy "
            "into a slot; 30B-A3B widths, rank 1, F16, no model. Limit: over a read and copy of the bytes",
        ),
        make_row(
            "packed_over_read",
            over_read,
            unit="ratio",
            goal=2.0,
            better="lower",
            value=_ratio(real.packed, real.read),
            limit=1.0,
            how=f"{_ms(real.packed)} ms packed over {_ms(real.read)} ms to read the file at once and copy "
            "it; warm page cache. Limit: the read itself",
        ),
    ]


def _ms(samples: Sequence[float]) -> str:
    return f"{statistics.median(samples) * 1e3:.1f}"


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median(above) / statistics.median(below)


def _rounds(count: int, *loads: Load) -> list[list[float]]:
    """Run the loads in turn and return the seconds of each; the first round warms up and is left out."""
    times: list[list[float]] = [[] for _ in loads]
    for turn in range(count + 1):
        for load, samples in zip(loads, times, strict=True):
            began = time.perf_counter()
            load()
            if turn:
                samples.append(time.perf_counter() - began)
    return times


def measure_live(folder: Path) -> Times:
    """Load the same adapter in both layouts into a running engine, each time under a new number."""
    from vllm import LLM
    from vllm.lora.request import LoRARequest

    from tools.make_moe_base import make_moe_base

    facts = make_moe_base(folder / "base", experts=EXPERTS, layers=LAYERS, expert_width=32)
    packed, split = write_both(facts, folder, rank=LIVE_RANK, dtype=np.float32)
    llm = LLM(
        model=str(folder / "base"),
        dtype="float32",
        max_model_len=128,
        max_num_seqs=4,
        enable_lora=True,
        max_loras=2,
        max_cpu_loras=2,
        max_lora_rank=8,
        lora_target_modules=[*facts.targets, "experts"],
        enforce_eager=True,
        kv_cache_memory_bytes=32 << 20,
    )
    numbers = iter(range(1, 1000))

    def loader(place: Path) -> Load:
        def load() -> None:
            number = next(numbers)
            assert llm.llm_engine.add_lora(LoRARequest(f"a{number}", number, str(place)))

        return load

    per_expert, fast = _rounds(LIVE_ROUNDS, loader(split), loader(packed))
    return Times(per_expert, fast, [])


def measure_real(folder: Path) -> Times:
    """Load at real widths without a model, and read the same bytes."""
    packed, split = write_both(real_facts(), folder, rank=1, dtype=np.float16)
    data = (packed / WEIGHTS_FILE).stat().st_size
    target = np.ones(data, np.uint8)

    def read() -> None:
        target[:] = np.fromfile(packed / WEIGHTS_FILE, np.uint8)

    loader = _Loader()
    times = _rounds(
        REAL_ROUNDS, lambda: loader.load_per_expert(split), lambda: loader.load_packed(packed), read
    )
    return Times(*times)


class _Loader:
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
        """Load as MinT's plugin does."""
        from services.loader.adapters.packed_loader import load_packed

        manager = self._manager()
        config = SimpleNamespace(max_lora_rank=8, lora_dtype=self._dtype)
        worker_manager = SimpleNamespace(lora_config=config, _adapter_manager=manager)
        manifest = read_manifest((folder / MANIFEST_FILE).read_bytes())
        self._finish(manager, load_packed(worker_manager, folder, manifest, number=1))

    def _manager(self) -> Any:
        from vllm.lora.model_manager import LoRAModelManager

        manager = object.__new__(LoRAModelManager)
        manager.packed_modules = self._packed_modules
        manager.modules = self._modules
        manager.model = SimpleNamespace()
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
    packed, split = folder / "packed", folder / "per-expert"
    packed.mkdir(parents=True)
    for name, data in files.files.items():
        (packed / name).write_bytes(data)
    convert_adapter(facts, packed, split, layout=DENSE)
    return packed, split


def _draw(figure: Any, live: Times, real: Times) -> None:
    axes = figure.subplots(1, 2)
    titles = (f"live engine, tiny widths, rank {LIVE_RANK}", "30B-A3B widths, rank 1, no model")
    for plot, title, times in zip(axes, titles, (live, real), strict=True):
        bars = {"per expert": times.per_expert, "packed": times.packed, "read + copy": times.read}
        shown = {name: [1e3 * second for second in samples] for name, samples in bars.items() if samples}
        heights = [statistics.median(samples) for samples in shown.values()]
        drawn = plot.bar(list(shown), heights, color=("#b0b0b0", "#2a6f97", "#d9d9d9")[: len(shown)])
        plot.bar_label(drawn, [f"{height:.1f}" for height in heights])
        plot.set_yscale("log")
        plot.set_ylabel("ms, median")
        plot.set_title(title)
