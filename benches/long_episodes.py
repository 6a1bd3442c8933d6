"""Long episodes in training: the memory of one pass over an episode, and what shared beginnings save.

An episode of several turns is one sequence, so its turns share what comes before; episodes of a group share
their first prompt. The alternative is a sequence for each turn, with all that was before it. Random tokens on
smollm2 in float32; its positions go on beyond the context that it was trained for.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benches.bases import base_folder
from benches.device import one_thread, peak_bytes, placement_on, work_seconds
from benches.report import Report, Row, make_row
from benches.trainer_steps import Work, random_tokens, state_on, step_policies
from services.trainer.adapters.model.resident_base import ResidentBase, load_base
from services.trainer.adapters.training.freed_memory import keep_freed_memory
from services.trainer.core.batch import Batch
from services.trainer.core.batch import Row as BatchRow

TURNS, TURN, ANSWER_SHARE = 8, 2048, 4
"""Turns of the long episode, tokens of each, and which part of them is sampled: the last quarter."""
GROUP, SHORT_TURN, ROUNDS = 16, 16, 2
RANK = 16
_GB = 1e9


def run() -> Report:
    """Measure; the long episode takes some minutes of a core."""
    one_thread()
    keep_freed_memory()  # as the trainer's process does
    base = load_base(base_folder("smollm2"), placement_on("cpu", checkpointing="auto"))
    taken = memory_of_an_episode(base, turn=TURN)
    seconds = seconds_of_a_group(base, group=GROUP, rounds=ROUNDS)
    return Report(
        bench="long_episodes",
        rows=[_memory_row(base, taken), _group_row(seconds)],
        draw=lambda figure: _draw(figure, taken, seconds),
    )


def memory_of_an_episode(base: ResidentBase, *, turn: int) -> int:
    """Return the bytes that a step on one episode takes above those of the base, after a short step."""
    work = Work(state=state_on(base, rank=RANK, seed=0), batch=_batch(episodes(base, 1, turn=4)))
    step_policies(base, [work], max_tokens=base.microbatch_tokens)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    before = 1024 * int(status["VmRSS"].split()[0])
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    work = Work(state=work.state, batch=_batch(episodes(base, 1, turn=turn)))
    step_policies(base, [work], max_tokens=base.microbatch_tokens)
    return peak_bytes("cpu") - before


def seconds_of_a_group(base: ResidentBase, *, group: int, rounds: int) -> list[tuple[float, float]]:
    """Return the CPU seconds of a step with a sequence per turn, and with one per episode, in turn."""
    whole = episodes(base, group, turn=SHORT_TURN)
    works = [
        Work(state=state_on(base, rank=RANK, seed=seed), batch=_batch(rows))
        for seed, rows in enumerate(([one for each in whole for one in turns_of(each)], whole))
    ]

    def seconds(work: Work) -> float:
        return work_seconds("cpu", lambda: step_policies(base, [work], max_tokens=base.microbatch_tokens))

    return [(seconds(works[0]), seconds(works[1])) for _ in range(rounds)]


def episodes(base: ResidentBase, count: int, *, turn: int) -> list[BatchRow]:
    """Return episodes behind one first prompt, as rows: of each turn's tokens the last quarter is trained."""
    rng = random.Random(0)
    answer = turn // ANSWER_SHARE
    prompt = random_tokens(rng, base, turn - answer)
    length = TURNS * turn - len(prompt)
    trained = tuple((at * turn, at * turn + answer) for at in range(TURNS))
    return [
        BatchRow(
            prompt=prompt,
            tokens=random_tokens(rng, base, length),
            logprobs=(-9.0,) * length,
            advantage=rng.uniform(-1.0, 1.0),
            trained=trained,
        )
        for _ in range(count)
    ]


def turns_of(episode: BatchRow) -> list[BatchRow]:
    """Return an episode's turns as rows that share nothing: a prompt of all before, and the answer."""
    return [
        BatchRow(
            prompt=(*episode.prompt, *episode.tokens[:start]),
            tokens=episode.tokens[start:end],
            logprobs=episode.logprobs[start:end],
            advantage=episode.advantage,
        )
        for start, end in episode.trained
    ]


def _batch(rows: Sequence[BatchRow]) -> Batch:
    total = sum(row.targets for row in rows)
    return Batch(rows=tuple(rows), probe=(), total_tokens=total, skipped_groups=0, reward_mean=0.0)


def _memory_row(base: ResidentBase, taken: int) -> Row:
    numbers, tokens = base.token_numbers, TURNS * TURN
    return make_row(
        "long_episode_memory_gb",
        [taken / _GB],
        unit="GB",
        goal=2.0,
        better="lower",
        limit=tokens * numbers.layers * numbers.width * base.dtype.itemsize / _GB,
        how=f"smollm2, peak resident memory of a step on one episode of {TURNS} turns of {TURN:,} tokens, a"
        f" quarter of them trained, above that before; rank {RANK}, {base.microbatch_tokens} tokens a"
        " micro-batch. Limit: the inputs of the layers, which are computed again",
    )


def _group_row(seconds: Sequence[tuple[float, float]]) -> Row:
    apart, whole = zip(*seconds, strict=True)
    answer = SHORT_TURN // ANSWER_SHARE
    read = sum(number * SHORT_TURN for number in range(1, TURNS + 1))
    prompt = SHORT_TURN - answer
    shared = (prompt + GROUP * (TURNS * SHORT_TURN - prompt)) / GROUP
    return make_row(
        "episode_group_ratio",
        [slow / fast for slow, fast in seconds],
        unit="ratio",
        goal=3.0,
        better="higher",
        limit=read / shared,
        how=f"smollm2, CPU seconds of a step on a group of {GROUP} episodes of {TURNS} turns of {SHORT_TURN}"
        f" tokens: {min(apart):.1f} with a sequence per turn over {min(whole):.1f} with one per episode"
        " behind the shared first prompt. Limit: by tokens read",
    )


def _draw(figure: Any, taken: int, seconds: Sequence[tuple[float, float]]) -> None:
    memory, time = figure.subplots(1, 2)
    memory.bar(["above the base"], [taken / _GB], color="#2a6f97")
    memory.axhline(2.0, color="#b0b0b0")
    memory.set_ylabel("GB")
    memory.set_title(f"one episode of {TURNS} x {TURN:,} tokens")
    apart, whole = zip(*seconds, strict=True)
    drawn = time.bar(["a sequence per turn", "per episode"], [min(apart), min(whole)], color="#2a6f97")
    time.bar_label(drawn, [f"{min(apart):.1f}", f"{min(whole):.1f}"])
    time.set_ylabel("CPU seconds")
    time.set_title(f"a group of {GROUP} episodes")
