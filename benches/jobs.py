"""What does a job on a file cost over TRL?

Both sides train SmolLM2-135M on the same rows in the same order, from the same weights, by the same AdamW, in
float32 on one thread, a block of steps in turn. Ours is the trainer's service: each step a wave that comes
over NATS, with its operations in Postgres and a revision exported at its end, which TRL does not do. The
limit is the trainer's own arithmetic, in this process, on some of the blocks.
"""

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import safetensors.torch

from benches.bases import base_folder
from benches.device import one_thread
from benches.job_rows import Answered, rows_of, trl_rows
from benches.job_waves import JobWaves, open_job_waves, record_of
from benches.report import Report, Row, make_row
from benches.stacks import scratch_folder
from benches.trl_side import open_trl
from mint_common.algorithms import Algorithms
from mint_common.events import LoraSpec
from mint_common.ids import WaveId
from services.trainer.adapters.model.resident_base import ResidentBase, load_base
from services.trainer.adapters.states.training_state import TrainingState, new_state
from services.trainer.adapters.training.freed_memory import keep_freed_memory
from services.trainer.adapters.training.optimizer import take_steps
from services.trainer.adapters.training.policy_passes import PolicyPass, run_policy_passes
from services.trainer.core.algorithms.algorithm import ManagedAlgorithms
from services.trainer.core.wave_operations import adam_step

BASE, RANK, RATE, BETA, CLIP = "smollm2", 16, 2e-4, 0.1, 1.0
ROWS, VALIDATION, BATCH, BLOCK, BARE_BLOCKS = 512, 64, 8, 2, 6
Method = Literal["sft", "dpo"]
METHODS: Mapping[str, Method] = {"sft_overhead": "sft", "dpo_overhead": "dpo"}
"""By the name of the row that compares them."""


@dataclass(slots=True, kw_only=True)
class Trained:
    """Seconds of each block on either side, the first ones left out, and the losses at the end."""

    ours: list[float] = field(default_factory=list)
    trl: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    valid_loss: float = 0.0
    trl_valid_loss: float = 0.0

    def ratios(self) -> list[float]:
        """Return ours over TRL's, block by block."""
        return [ours / trl for ours, trl in zip(self.ours, self.trl, strict=True)]

    def limit(self) -> float:
        """Return the bare arithmetic over TRL, of the blocks that both computed."""
        return statistics.median(bare / trl for bare, trl in zip(self.bare, self.trl, strict=False))


def run(*, only: str | None = None, rows: int = ROWS) -> Report:
    """Measure; fewer ``rows``, whole blocks of steps, are a trial of the bench itself."""
    assert rows % (BATCH * BLOCK) == 0, rows
    one_thread()
    keep_freed_memory()  # as the trainer's process does
    trained = {
        method: asyncio.run(_train(method, rows=rows))
        for name, method in METHODS.items()
        if only in {None, name}
    }
    found = [row for method, one in trained.items() for row in _training_rows(method, one, rows=rows)]
    return Report(bench="jobs", rows=found, draw=lambda figure: _draw(figure, trained))


async def _train(method: Method, *, rows: int) -> Trained:
    answered = rows_of(base_folder(BASE), method, count=rows + VALIDATION * rows // ROWS)
    training, validation = answered[:rows], answered[rows:]
    base = load_base(base_folder(BASE))
    spec = LoraSpec(rank=RANK, alpha=2.0 * RANK, targets=base.facts.targets, seed=1)
    bare = Bare(base, new_state(base.facts, spec), method)
    found = Trained()
    batches = [training[begin : begin + BATCH] for begin in range(0, rows, BATCH)]
    blocks = [batches[begin : begin + BLOCK] for begin in range(0, len(batches), BLOCK)]
    with scratch_folder() as folder:
        config = _trl_config(folder, method, bare.state, training, validation)
        with open_trl(folder, config) as trl:
            async with open_job_waves(BASE, spec, _numbers(method), steps=len(batches)) as waves:
                await waves.validate_last_on(record_of(WaveId("validation"), validation))
                for number, block in enumerate(blocks):
                    await _turn(found, number, block, waves, bare, trl_block=trl.block)
                found.valid_loss = waves.metrics["valid_loss"]
            found.trl_valid_loss = await asyncio.to_thread(trl.valid_loss)
    return found


async def _turn(
    found: Trained,
    number: int,
    block: Sequence[Sequence[Answered]],
    waves: JobWaves,
    bare: "Bare",
    *,
    trl_block: Any,  # a function without arguments
) -> None:
    """Train a block on each side; the first warms up."""
    trl = await asyncio.to_thread(trl_block)
    ours = await waves.train(block)
    if number:
        found.trl.append(trl)
        found.ours.append(ours)
    if number <= BARE_BLOCKS:
        seconds = bare.train(block)
        if number:
            found.bare.append(seconds)


def _numbers(method: Method) -> dict[str, Any]:  # fields of a JobSpec
    return {
        "algorithm": method,
        "learning_rate": RATE,
        "kl_coefficient": BETA,
        "clip_norm": CLIP,
        "prompts_per_step": BATCH,
    }


def _trl_config(
    folder: Path,
    method: Method,
    state: TrainingState,
    training: Sequence[Answered],
    validation: Sequence[Answered],
) -> dict[str, object]:
    adapter = folder / "adapter.safetensors"
    weights = {name: view.clone().contiguous() for name, view in state.lora.named()}
    safetensors.torch.save_file(weights, adapter)
    return {
        "base": str(base_folder(BASE)),
        "method": method,
        "rows": trl_rows(method, training),
        "validation": trl_rows(method, validation),
        "adapter": str(adapter),
        "batch": BATCH,
        "block": BLOCK,
        "rank": RANK,
        "step": msgspec.to_builtins(adam_step(learning_rate=RATE, clip_norm=CLIP)),
        "beta": BETA,
    }


class Bare:
    """The trainer's arithmetic without its service."""

    def __init__(self, base: ResidentBase, state: TrainingState, method: Method) -> None:
        self.state = state
        self._base = base
        self._algorithm = ManagedAlgorithms(Algorithms()).named(method)

    def train(self, block: Sequence[Sequence[Answered]]) -> float:
        """Take the steps of a block; return the seconds that they took."""
        began = time.perf_counter()
        for batch in block:
            found = self._algorithm.build_batch(record_of(WaveId("bare"), batch))
            config = self._algorithm.training.config(BETA, "none")
            work = self._algorithm.wave_batch(found, config, is_file=True)
            asked = PolicyPass(lora=self.state.lora, step=self.state.step, work=work)
            run_policy_passes(self._base, [asked], max_tokens=self._base.microbatch_tokens)
            take_steps([self.state], [adam_step(learning_rate=RATE, clip_norm=CLIP)])
        return time.perf_counter() - began


def _training_rows(method: Method, found: Trained, *, rows: int) -> list[Row]:
    tokens = "the same trained tokens" if method == "sft" else "the same pairs, the base as the reference"
    return [
        make_row(
            f"{method}_overhead",
            found.ratios(),
            unit="ratio",
            goal=0.8,
            better="lower",
            limit=found.limit(),
            how=f"{BASE}, {rows} rows, {BATCH} a step, rank {RANK}, float32, one thread, {tokens}: {BLOCK} "
            "steps by the trainer's service (waves over NATS, log in Postgres, an export a step) over TRL's "
            f"{method.upper()}Trainer with PEFT, in turn. Limit: the trainer's arithmetic in this process "
            f"over TRL, {len(found.bare)} blocks",
        ),
        make_row(
            f"{method}_valid_loss_off",
            [abs(found.valid_loss / found.trl_valid_loss - 1)],
            unit="",
            goal=0.01,
            better="lower",
            limit=0.0,
            how=f"share by which the losses on {VALIDATION * rows // ROWS} rows differ at the end: ours "
            f"{found.valid_loss:.4f}, TRL's {found.trl_valid_loss:.4f}",
        ),
    ]


def _draw(figure: Any, trained: dict[Method, Trained]) -> None:  # Any: matplotlib is untyped
    plots = figure.subplots(1, max(1, len(trained)), squeeze=False)[0]
    for plot, (method, found) in zip(plots, trained.items(), strict=False):
        plot.boxplot([found.trl, found.ours], tick_labels=["TRL", "ours"], showfliers=False)
        plot.set(title=f"{BLOCK} steps of {method}, s", ylim=(0, None))
