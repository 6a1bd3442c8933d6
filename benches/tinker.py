"""What does the Tinker API cost over the bare loop, through the official SDK?

Both sides run in turn on one machine: the trainer's own arithmetic in this process against a step through
SDK, gateway, trainer and Postgres; an engine in this process against samples through SDK, gateway and loader.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import tinker
from tinker import types

from benches.bases import base_folder
from benches.device import one_thread
from benches.report import Report, Row, make_row
from benches.tinker_bare import BareTraining
from benches.tinker_replay import FORWARDED_STEPS
from benches.tinker_stack import (
    LENGTH,
    RANK,
    RATE,
    SEQUENCES,
    BareSampling,
    open_bare_sampling,
    open_services,
    token_rows,
)
from mint_common.adapters_format import BaseFacts, read_base_facts
from mint_common.generation import Sampling
from services.trainer.adapters.training.freed_memory import keep_freed_memory

AT_ONCE, PROMPT, NEW_TOKENS, CHECKPOINTS = 32, 16, 64, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How often each thing is measured on a base; none where the noise is larger than what is looked for."""

    base: str
    steps: int
    handovers: int
    rounds: int
    bursts: int

    @property
    def suffix(self) -> str:
        """Return what tells its rows from those of ``tiny``."""
        return "" if self.base == "tiny" else f"_{self.base}"


CASES = (
    Case(base="tiny", steps=60, handovers=30, rounds=6, bursts=3),
    Case(base="smollm2", steps=0, handovers=6, rounds=2, bursts=1),
)


@dataclass(slots=True, kw_only=True)
class Seen:
    """Samples of one base: seconds, ratios, differences."""

    bare_steps: list[float] = field(default_factory=list)
    our_steps: list[float] = field(default_factory=list)
    replayed_steps: list[float] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)
    rate_ratios: list[float] = field(default_factory=list)
    our_rates: list[float] = field(default_factory=list)
    bursts: list[float] = field(default_factory=list)
    differences: list[float] = field(default_factory=list)


def run() -> Report:
    """Measure."""
    one_thread()
    os.environ["TINKER_TELEMETRY"] = "0"
    keep_freed_memory()  # the bare loop has what the trainer's process has
    seen = {case.base: asyncio.run(_measure(case)) for case in CASES}
    rows = [row for case in CASES for row in _rows(case, seen[case.base])]
    return Report(bench="tinker", rows=rows, draw=lambda figure: _draw(figure, seen))


async def _measure(case: Case) -> Seen:
    facts = read_base_facts(base_folder(case.base))
    seen = Seen()
    with open_bare_sampling(case.base) as bare:
        async with open_services(case.base) as (service, replay):
            loop = await asyncio.to_thread(_Loop, case, facts, service, seen)
            await asyncio.to_thread(loop.train, replay)
            await asyncio.to_thread(loop.hand_over)
            await asyncio.to_thread(loop.compare)
            await loop.sample(bare)
            await asyncio.to_thread(loop.burst)
    return seen


class _Loop:
    """The measured part of a user's program."""

    def __init__(self, case: Case, facts: BaseFacts, service: tinker.ServiceClient, seen: Seen) -> None:
        self._case = case
        self._service = service
        self._seen = seen
        self._rows = token_rows(facts)
        self._data = [_datum(row) for row in self._rows]
        base = f"mint/{case.base}"
        self._base = base
        self._client = self._training_client(service)

    def train(self, replay: tinker.ServiceClient) -> None:
        """Step here, there and at recorded answers, in turn; a step's two operations are pipelined."""
        bare = BareTraining(self._case.base)
        replayed = self._training_client(replay)
        for _ in range(FORWARDED_STEPS):
            bare.step()
            self._step()
            self._step(client=replayed)
        for _ in range(self._case.steps):
            self._seen.bare_steps.append(_seconds(bare.step))
            self._seen.our_steps.append(_seconds(self._step))
            self._seen.replayed_steps.append(_seconds(lambda: self._step(client=replayed)))

    def hand_over(self) -> None:
        """From trained weights to the first token sampled from them."""
        prompt = types.ModelInput.from_ints(self._rows[0][:PROMPT])
        params = types.SamplingParams(max_tokens=1, temperature=1.0)
        for number in range(self._case.handovers + 2):
            self._step()
            began = time.perf_counter()
            sampler = self._client.save_weights_and_get_sampling_client().result()
            sampler.sample(prompt, 1, params).result()
            if number >= 2:
                self._seen.first_tokens.append(time.perf_counter() - began)

    def compare(self) -> None:
        """What the sampler says of its tokens, less what the trainer says of them."""
        sampler = self._client.save_weights_and_get_sampling_client().result()
        params = types.SamplingParams(max_tokens=NEW_TOKENS, temperature=1.0, seed=3, stop=[])
        for row in self._rows[:4]:
            sampled = (
                sampler.sample(types.ModelInput.from_ints(row[:PROMPT]), 1, params).result().sequences[0]
            )
            whole = [*row[:PROMPT], *(int(token) for token in sampled.tokens)]
            passed = self._client.forward([_datum(whole)], "cross_entropy").result()
            trained = passed.loss_fn_outputs[0]["logprobs"].data[PROMPT - 1 :]
            assert sampled.logprobs is not None
            self._seen.differences.append(
                max(
                    abs(float(one) - float(other))
                    for one, other in zip(trained, sampled.logprobs, strict=True)
                )
            )

    async def sample(self, bare: BareSampling) -> None:
        """Sample the bare base here and there in turn."""
        sampler = await asyncio.to_thread(
            lambda: self._service.create_sampling_client(base_model=self._base).result()
        )
        prompts = [row[:PROMPT] for row in (self._rows * 2)[:AT_ONCE]]
        sampling = Sampling(max_new_tokens=NEW_TOKENS, temperature=1.0, ignore_eos=True, logprobs=0)
        for number in range(self._case.rounds + 1):
            began = time.perf_counter()
            ours = await asyncio.to_thread(_sample_all, sampler, prompts)
            our_rate = ours / (time.perf_counter() - began)
            began = time.perf_counter()
            theirs = await bare.sample(prompts, sampling)
            bare_rate = theirs / (time.perf_counter() - began)
            assert ours == theirs == AT_ONCE * NEW_TOKENS
            if number:
                self._seen.our_rates.append(our_rate)
                self._seen.rate_ratios.append(our_rate / bare_rate)

    def burst(self) -> None:
        """One sample of each of many checkpoints, all at once; each is what it is alone."""
        params = types.SamplingParams(max_tokens=4, temperature=0.0, stop=[])
        prompt = types.ModelInput.from_ints(self._rows[0][:PROMPT])
        for number in range(self._case.bursts):
            futures = []
            for at in range(CHECKPOINTS):
                self._step(self._data[:1])
                futures.append(self._client.save_weights_for_sampler(f"burst-{number}-{at}"))
            paths = [future.result().path for future in futures]
            samplers = [
                future.result()
                for future in [self._service.create_sampling_client(model_path=path) for path in paths]
            ]
            began = time.perf_counter()
            sampled = [future.result() for future in [each.sample(prompt, 1, params) for each in samplers]]
            self._seen.bursts.append(CHECKPOINTS / (time.perf_counter() - began))
            for at in (0, CHECKPOINTS // 2, CHECKPOINTS - 1):
                again = samplers[at].sample(prompt, 1, params).result()
                assert list(again.sequences[0].tokens) == list(sampled[at].sequences[0].tokens)

    def _training_client(self, service: tinker.ServiceClient) -> tinker.TrainingClient:
        return service.create_lora_training_client(self._base, rank=RANK, seed=1).result()

    def _step(
        self, data: Sequence[types.Datum] | None = None, *, client: tinker.TrainingClient | None = None
    ) -> None:
        client = client or self._client
        passed = client.forward_backward(list(data or self._data), "cross_entropy")
        stepped = client.optim_step(types.AdamParams(learning_rate=RATE, eps=1e-8))
        passed.result()
        stepped.result()


def _sample_all(sampler: Any, prompts: Sequence[Sequence[int]]) -> int:
    futures = [
        sampler.sample(
            types.ModelInput.from_ints(list(prompt)),
            1,
            types.SamplingParams(max_tokens=NEW_TOKENS, temperature=1.0, seed=seed, stop=[]),
        )
        for seed, prompt in enumerate(prompts)
    ]
    return sum(len(each.tokens) for future in futures for each in future.result().sequences)


def _datum(row: Sequence[int]) -> types.Datum:
    targets = types.TensorData(data=list(row[1:]), dtype="int64", shape=[len(row) - 1])
    return types.Datum(
        model_input=types.ModelInput.from_ints(list(row[:-1])), loss_fn_inputs={"target_tokens": targets}
    )


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _rows(case: Case, seen: Seen) -> list[Row]:
    suffix, base = case.suffix, case.base
    steps = [_step_row(base, seen)] if case.steps else []
    return [
        *steps,
        make_row(
            f"save_to_first_token_ms{suffix}",
            [1e3 * each for each in seen.first_tokens],
            unit="ms",
            goal=60.0 if base == "tiny" else None,
            better="lower",
            how=f"{base}: save_weights_and_get_sampling_client to the first token sampled, after a step each",
        ),
        make_row(
            f"sample_throughput_ratio{suffix}",
            seen.rate_ratios,
            unit="ratio",
            goal=0.8,
            better="higher",
            limit=1.0,
            how=f"{base}: tokens/s of {AT_ONCE} samples at once of {NEW_TOKENS} tokens through the SDK "
            f"({statistics.median(seen.our_rates):.0f}/s) over the same engine in this process, in turn",
        ),
        make_row(
            f"burst_64_samples_per_s{suffix}",
            seen.bursts,
            unit="1/s",
            goal=60.0,
            better="higher",
            how=f"{base}: {CHECKPOINTS} samplers of as many checkpoints, one sample of "
            "4 tokens each, all at once",
        ),
        make_row(
            f"parity_max_abs{suffix}",
            seen.differences,
            value=max(seen.differences),
            unit="nats",
            goal=1e-4,
            better="lower",
            limit=0.0,
            how=f"{base}: log-probabilities of {NEW_TOKENS} sampled tokens, the sampler's less the trainer's",
        ),
    ]


def _step_row(base: str, seen: Seen) -> Row:
    bare_ms = statistics.median(1e3 * each for each in seen.bare_steps)
    return make_row(
        "step_overhead_ms",
        [1e3 * each - bare_ms for each in seen.our_steps],
        unit="ms",
        goal=15.0,
        better="lower",
        limit=statistics.median(1e3 * each for each in seen.replayed_steps),
        how=f"{base}: forward_backward + optim_step pipelined through the SDK, {SEQUENCES} sequences of "
        f"{LENGTH} tokens, rank {RANK}, less the median of the trainer's own arithmetic in this process "
        f"({bare_ms:.1f} ms), in turn; limit: the same SDK against recorded answers that come at once",
    )


def _draw(figure: Any, seen: dict[str, Seen]) -> None:  # Any: matplotlib is untyped
    left, right = figure.subplots(1, 2)
    tiny = seen["tiny"]
    left.boxplot(
        [[1e3 * each for each in samples] for samples in (tiny.bare_steps, tiny.our_steps)],
        tick_labels=["bare", "SDK"],
        showfliers=False,
    )
    left.set(title="a step, tiny, ms", ylim=(0, None))
    right.boxplot([[1e3 * each for each in tiny.first_tokens]], tick_labels=["tiny"], showfliers=False)
    right.set(title="save to first token, ms", ylim=(0, None))
