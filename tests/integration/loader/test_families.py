"""Tiny models of many families: bare, with each target alone, and two adapters beside the bare base."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from mint_common.adapters_format import BaseFacts, build_adapter, packed_name, peft_name
from mint_common.adapters_format.names import HALVES
from mint_common.adapters_format.sites import FOLDED_PROBLEM, ROTATED_PROBLEM, all_sites, targeted
from mint_common.dtypes import Dtype
from mint_common.ids import PolicyId
from services.loader.adapters.vllm.repairs.non_finite import NON_FINITE
from services.loader.core.execution import Execution
from tests.families import FAMILIES, ROUTED, save_tiny
from tests.integration.loader.family_engine import SLOTS, Answered, Asked, answers, forks
from tests.integration.loader.reference import Reference

pytestmark = [
    pytest.mark.engine,
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
PROMPT = tuple(np.random.default_rng(5).integers(3, 250, 48).tolist())
"""Longer than every window of the tiny models."""
COUNT = 8
EXACT = 5e-5
SCAN = 2e-3
"""vLLM's kernel of Mamba's scan on a CPU."""
ROUNDED = 0.1
"""Of the median, in bfloat16: a route that changes moves single tokens by more."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a family's engine is held to: a difference in nats, and the reason of each target it refuses.

    ``rerouted`` is the share of tokens that may have other routes.
    """

    nats: float = EXACT
    rerouted: float = 0.0
    refused: Mapping[str, str] = field(default_factory=dict)


CONTEXT = 128
SERVED: Mapping[str, Expected] = {
    "qwen2": Expected(),
    "olmo2": Expected(),
    "smollm3": Expected(),
    "ministral3": Expected(),
    "mistral": Expected(),
    "glm4": Expected(),
    "exaone4": Expected(),
    "gemma3": Expected(),
    "gemma2": Expected(),
    "olmo3": Expected(),
    "gemma4": Expected(),
    "granite": Expected(),
    "cohere2": Expected(),
    "phi3": Expected(),
    "phi3_longrope": Expected(),
    "qwen2_moe": Expected(),
    "mixtral": Expected(),
    "glm4_moe": Expected(),
    "qwen3_moe": Expected(),
    "qwen3_next": Expected(nats=ROUNDED, rerouted=0.2),
    "qwen3_5": Expected(nats=ROUNDED),
    "qwen3_5_moe": Expected(nats=ROUNDED, rerouted=0.2),
    "gpt_oss": Expected(),
    "gemma4_moe": Expected(),
    "granite4": Expected(),
    "lfm2": Expected(),
    "lfm2_moe": Expected(),
    "llama4": Expected(
        refused={"q_proj": ROTATED_PROBLEM, "k_proj": ROTATED_PROBLEM},
    ),
    "nemotron_h": Expected(nats=SCAN),
    "deepseek_v2": Expected(refused={"kv_b_proj": FOLDED_PROBLEM}),
    "deepseek_v3": Expected(refused={"kv_b_proj": FOLDED_PROBLEM}),
    "glm4_moe_lite": Expected(refused={"kv_b_proj": FOLDED_PROBLEM}),
    "qwen3_5_images": Expected(nats=ROUNDED),
    "qwen3_5_moe_images": Expected(nats=ROUNDED, rerouted=0.2),
    "gemma3_images": Expected(),
    "gemma4_images": Expected(),
    "mistral3_images": Expected(),
}
FAST = ("qwen2", "mixtral")


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Run the process that transformers computes in."""
    with ProcessPoolExecutor(1, mp_context=forks()) as pool:
        yield pool


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in SERVED]
)
def test_base_and_adapters_answer_as_transformers_computes(
    name: str, tmp_path: Path, processes: ProcessPoolExecutor
) -> None:
    expected = SERVED[name]
    rows = measured(name, expected, tmp_path, processes)
    assert rows.pop("overflowing").problem == NON_FINITE
    refused = {label: row.problem for label, row in rows.items() if row.problem}
    assert refused.keys() == expected.refused.keys(), refused
    for target, reason in expected.refused.items():
        assert reason in refused[target]
    served = {label: row for label, row in rows.items() if not row.problem}
    assert {label: row.nats for label, row in served.items() if row.nats > expected.nats} == {}
    adapters = {label: row for label, row in served.items() if not label.startswith("bare")}
    assert [label for label, row in adapters.items() if row.moves <= row.nats] == [], "they change nothing"
    assert {label: row.rerouted for label, row in served.items() if row.rerouted > expected.rerouted} == {}


@dataclass(frozen=True, kw_only=True)
class Row:
    """An answer's largest difference to transformers, and of that to the bare base; or why there is none.

    ``rerouted`` is the share of its tokens that the engine's routers send to other experts.
    """

    nats: float = 0.0
    moves: float = 0.0
    rerouted: float = 0.0
    problem: str = ""


def measured(name: str, expected: Expected, folder: Path, processes: ProcessPoolExecutor) -> dict[str, Row]:
    """Return what an engine makes of a family: bare, two adapters beside it, and each target alone."""
    base = save_tiny(folder / "base", name)
    reference = Reference(processes, base)
    facts = reference.facts()
    whole = sorted({*facts.targets} - {*expected.refused})
    mixed: dict[str, Asked] = {
        "bare": (None, PROMPT),
        "all of rank 4": (adapter(facts, folder / "four", whole, seed=1, rank=4), PROMPT),
        "all of rank 8": (adapter(facts, folder / "eight", whole, seed=2, rank=8), PROMPT),
        "bare, one token": (None, PROMPT[:1]),
        "overflowing": (adapter(facts, folder / "huge", whole, seed=1, factor=1e36), PROMPT),
        "bare beside it": (None, PROMPT),
        "bare after it": (None, PROMPT),
    }
    alone: dict[str, Asked] = {
        target: (adapter(facts, folder / target, [target], seed=9), PROMPT) for target in facts.targets
    }
    asked = mixed | alone
    order = [
        ["bare", "all of rank 4", "all of rank 8"],
        ["bare, one token"],  # has a step of its own
        ["overflowing", "bare beside it"],
        ["bare after it"],
        *batched(alone, SLOTS),
    ]
    batches = [[asked[label] for label in labels] for labels in order]
    execution = Execution(dtype=dtype_of(name), kv_cache_bytes=64 << 20)
    ran = answers(base, facts, batches, execution, count=COUNT, context=min(CONTEXT, facts.max_context))
    assert bool(facts.experts) == (name in ROUTED)
    assert len(ran.packed) == len(facts.experts), "experts' slots hold packed tensors as they were laid out"
    labels = [label for part in order for label in part]
    given = [one for batch in ran.batches for one in batch]
    middle = np.median if dtype_of(name) == "bfloat16" else np.max
    return {
        label: row_of(reference, facts, *asked[label], one, of=middle)
        for label, one in zip(labels, given, strict=True)
    }


def dtype_of(name: str) -> Dtype:
    return "bfloat16" if FAMILIES[name].dtype == "bfloat16" else "float32"


def batched(labels: Iterable[str], size: int) -> list[list[str]]:
    every = list(labels)
    return [every[first : first + size] for first in range(0, len(every), size)]


def row_of(
    reference: Reference,
    facts: BaseFacts,
    folder: Path | None,
    prompt: Sequence[int],
    found: Answered,
    *,
    of: Callable[[np.ndarray], np.floating],
) -> Row:
    if found.problem:
        return Row(problem=found.problem)
    sequence, first = [*prompt, *found.tokens], len(prompt)
    right, chosen = reference.compute(facts, folder, sequence, first)
    bare = reference.compute(facts, None, sequence, first)[0] if folder else right
    rerouted = 0.0
    if chosen.size:
        noted = np.sort(np.frombuffer(found.routes, np.uint16).reshape(chosen.shape))
        rerouted = float((noted != chosen).any(axis=(1, 2)).mean())
    return Row(
        nats=float(of(np.abs(right - found.logprobs))),
        moves=float(np.abs(right - bare).max()),
        rerouted=rerouted,
    )


def adapter(
    facts: BaseFacts,
    folder: Path,
    targets: Sequence[str],
    *,
    seed: int,
    rank: int = 8,
    factor: float = 0.1,
) -> Path:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(factor)

    tensors: dict[str, np.ndarray] = {}
    for site in targeted(all_sites(facts), targets):
        for half in HALVES:
            shape = (rank, site.width_in) if half == "A" else (site.width_out, rank)
            if site.count:
                tensors[packed_name(site.module, site.projection, half)] = draw(site.count, *shape)
            else:
                tensors[peft_name(site.name, half)] = draw(*shape)
    files = build_adapter(
        facts=facts, policy_id=PolicyId("pol"), step=seed, parent=None, rank=rank, tensors=tensors
    )
    folder.mkdir()
    for name, data in files.files.items():
        (folder / name).write_bytes(data)
    return folder
