"""Tiny models of many families: bare, with each target alone, and two adapters beside the bare base."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from mint_common.adapters_format import BaseFacts, build_adapter, packed_name, peft_name
from mint_common.adapters_format.names import HALVES
from mint_common.adapters_format.sites import all_sites, targeted
from mint_common.dtypes import Dtype
from mint_common.ids import PolicyId
from tests.families import FAMILIES, save_tiny
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
EXACT = 2e-5


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a family's engine is held to: the largest difference in nats, and the targets that it refuses."""

    nats: float = EXACT
    refused: Mapping[str, str] = field(default_factory=dict)


SCAN = Expected(nats=2e-3)
"""vLLM's kernels of Mamba's scan on a CPU."""
DELTA = Expected(nats=0.6)
"""bfloat16: transformers itself is up to 0.2 nats off its own float32, more where routes change."""
ROTATED = "permutes its rows when it loads the base"
SERVED: Mapping[str, Expected] = {
    "qwen2": Expected(),
    "mixtral": Expected(),
    "glm4": Expected(),
    "gpt_oss": Expected(),
    "llama4": Expected(refused={"q_proj": ROTATED, "k_proj": ROTATED}),
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
    rows = measured(name, tmp_path, processes, refused=expected.refused)
    refused = {label: row.problem for label, row in rows.items() if row.problem}
    assert refused.keys() == expected.refused.keys(), refused
    for target, reason in expected.refused.items():
        assert reason in refused[target]
    served = {label: row for label, row in rows.items() if not row.problem}
    assert {label: row.nats for label, row in served.items() if row.nats > expected.nats} == {}
    still = [
        label for label, row in served.items() if row.moves < expected.nats and not label.startswith("bare")
    ]
    assert still == [], "these adapters change nothing"


@dataclass(frozen=True, kw_only=True)
class Row:
    """An answer's largest difference to transformers, and of that to the bare base; or why there is none."""

    nats: float = 0.0
    moves: float = 0.0
    problem: str = ""


def measured(
    name: str, folder: Path, processes: ProcessPoolExecutor, *, refused: Collection[str] = ()
) -> dict[str, Row]:
    """Return what an engine makes of a family: bare, two adapters beside it, and each target alone."""
    base = save_tiny(folder / "base", name)
    reference = Reference(processes, base)
    facts = reference.facts()
    whole = sorted({*facts.targets} - {*refused})
    mixed: dict[str, Asked] = {
        "bare": (None, PROMPT),
        "all of rank 4": (adapter(facts, folder / "four", whole, seed=1, rank=4), PROMPT),
        "all of rank 8": (adapter(facts, folder / "eight", whole, seed=2, rank=8), PROMPT),
        "bare, one token": (None, PROMPT[:1]),
    }
    alone: dict[str, Asked] = {
        target: (adapter(facts, folder / target, [target], seed=9), PROMPT) for target in facts.targets
    }
    asked = mixed | alone
    # The one token has a step of its own.
    order = [list(mixed)[:3], ["bare, one token"], *batched(alone, SLOTS)]
    batches = [[asked[label] for label in labels] for labels in order]
    found = answers(base, facts, batches, dtype=dtype_of(name), count=COUNT)
    labels = [label for part in order for label in part]
    given = [one for batch in found for one in batch]
    return {
        label: row_of(reference, facts, *asked[label], one) for label, one in zip(labels, given, strict=True)
    }


def dtype_of(name: str) -> Dtype:
    return "bfloat16" if FAMILIES[name].dtype == "bfloat16" else "float32"


def batched(labels: Iterable[str], size: int) -> list[list[str]]:
    every = list(labels)
    return [every[first : first + size] for first in range(0, len(every), size)]


def row_of(
    reference: Reference, facts: BaseFacts, folder: Path | None, prompt: Sequence[int], found: Answered
) -> Row:
    if found.problem:
        return Row(problem=found.problem)
    sequence, first = [*prompt, *found.tokens], len(prompt)
    right = reference.logprobs(facts, folder, sequence, first)
    bare = reference.logprobs(facts, None, sequence, first) if folder else right
    return Row(nats=float(np.abs(right - found.logprobs).max()), moves=float(np.abs(right - bare).max()))


def adapter(facts: BaseFacts, folder: Path, targets: Sequence[str], *, seed: int, rank: int = 8) -> Path:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(0.1)

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
