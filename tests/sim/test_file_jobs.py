"""Promise: kill -9 of rollout anywhere in a job on a file changes no row that it trains on, and no order.

Rollout dies at any points of its dealings with the bus and the ledger, and each new process begins with an
empty disk. The trainer and the servers never die.
"""

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from mint_common.datasets import Format, RenderedExample, RenderedRow, Rendering, RenderRequest
from mint_common.events import Event, JobFile, JobFinished, JobSubmitted, WaveCompleted
from mint_common.events.codec import decode
from mint_common.ids import BaseName
from mint_common.records import decode_record
from mint_common.runtime.dispatch import Dispatcher, publish_event
from services.rollout.adapters.local_rows import LocalRows
from services.rollout.handlers.commits import Commits
from services.rollout.handlers.dispatching import WAVES, dispatch
from services.rollout.handlers.file_rows import FileRows
from services.rollout.handlers.jobs import JobHandlers
from services.rollout.handlers.tenant_turns import event_gate
from services.rollout.handlers.watchdog import Watchdog
from tests.testing.blobs_memory import MemoryBlobs
from tests.testing.bus_memory import MemoryBus
from tests.testing.clock import ManualClock
from tests.testing.crashes import Life, MortalBus, MortalLedger, live_and_die
from tests.testing.ledger_memory import MemoryLedger, MemoryRelay
from tests.unit.rollout.file_jobs import EVALUATION, completions, on_file
from tests.unit.rollout.memory_jobs import MemoryJobs
from tests.unit.rollout.no_environments import NoEnvironments
from tests.unit.rollout.rig import wave_handlers
from tests.unit.rollout.world import LocalTasks, Policies, ScoreBoard, ScriptedEngine, graders, published

PLAN = replace(EVALUATION, holdout=0.3)


class InlineExecutor(ThreadPoolExecutor):
    """Does the work of threads at once, so that a run repeats exactly."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  # as an executor does
            done.set_exception(error)
        return done


class ByteRendering:
    """Rows as their bytes, all trained."""

    async def render(self, base: BaseName, request: RenderRequest) -> Rendering:
        rows = [
            RenderedRow(
                line=row.line,
                examples=(
                    RenderedExample(side="answer", tokens=tuple(row.data), trained=((0, len(row.data)),)),
                ),
            )
            for row in request.rows
        ]
        return Rendering(rows=tuple(rows), problems=(), dropped=(), left_out=(), max_tokens=999)


class World:
    """What never dies: the servers, and the trainer with the registry."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.bus = MemoryBus(self.clock)
        self.blobs = MemoryBlobs()
        self.jobs = MemoryJobs()
        self.ledger = MemoryLedger(self.clock)
        self.scores = ScoreBoard()

    async def process(self, life: Life) -> None:
        """Run rollout until death."""
        bus, ledger = MortalBus(self.bus, life), MortalLedger(self.ledger, life)
        with tempfile.TemporaryDirectory() as folder:
            rows = FileRows(LocalRows(self.blobs, Path(folder), limit_bytes=1 << 20))
            shared: dict[str, Any] = {
                "blobs": self.blobs,
                "tasks": LocalTasks(),
                "rows": rows,
            }
            commits = Commits(jobs=self.jobs, ledger=ledger, clock=self.clock)
            of_jobs = JobHandlers(
                commits=commits,
                policies=Policies(),
                scores=self.scores,
                environments=NoEnvironments(),
                draws=event_gate(8, what="draws"),
                **shared,
            )
            of_waves = wave_handlers(
                commits, rendering=ByteRendering(), graders=graders(), sampler=ScriptedEngine(), **shared
            )
            watchdog = Watchdog(
                commits=commits,
                start_next=of_jobs.start_next,
                oldest_waiting=partial(bus.oldest_waiting, durable=WAVES),
                stall_seconds=20,
            )
            short, work = dispatch(of_jobs, of_waves, bus, self.clock)
            relay = MemoryRelay(self.ledger, bus, self.clock)
            async with asyncio.TaskGroup() as tasks:
                for part in (short, work, relay, watchdog):
                    tasks.create_task(part.run())

    async def train(self) -> None:
        """Publish a revision for each wave."""
        trainer = Dispatcher(bus=self.bus, ledger=None, durable="trainer", clock=self.clock)
        trainer.on(WaveCompleted, self.on_wave_completed)
        await trainer.run()

    async def on_wave_completed(self, event: WaveCompleted) -> Sequence[Event]:
        metrics = {"valid_loss": 1.0 / event.step} if event.validation else {}
        return [replace(published(event.step, job_id=event.job_id), metrics=metrics)]

    def heard(self, kind: type[Event]) -> list[Any]:
        """Return the distinct events of a type that are on the bus."""
        told = (message for message in self.bus.messages if message.subject.startswith(f"mint.{kind.type}"))
        return list({event.id: event for event in (decode(message.data)[1] for message in told)}.values())


async def run(lives: Sequence[int], event: Callable[[JobFile], JobSubmitted]) -> tuple[list[Any], Any]:
    """Run a job; return the groups that each step trains on, and how the job stands at its end."""
    asyncio.get_running_loop().set_default_executor(InlineExecutor())
    world = World()
    data = b"".join(msgspec.json.encode(row) + b"\n" for row in completions(9))
    content = await world.blobs.put("files/a", data)
    file = JobFile(file_id="f", filename="a.jsonl", content=content, format=Format.COMPLETION, rows=9)
    submission = event(file)
    await publish_event(world.bus, submission, cause="test", now=0.0)
    trainer = asyncio.create_task(world.train())
    await live_and_die(
        world.process, lives=lives, clock=world.clock, is_done=lambda: bool(world.heard(JobFinished))
    )
    trainer.cancel()
    await asyncio.wait([trainer])
    waves = sorted(world.heard(WaveCompleted), key=lambda wave: wave.step)
    assert not any(message.subject.startswith("mint.dead") for message in world.bus.messages)
    groups = [decode_record(await world.blobs.get(wave.record)).groups for wave in waves]
    validations = [wave.validation for wave in waves]
    return [groups, validations, world.scores.recorded], await world.jobs.job(submission.job_id)


def job(file: JobFile) -> JobSubmitted:
    return on_file(file, epochs=2, batch=3, evaluation=PLAN)


@cache
def undisturbed() -> tuple[list[Any], Any]:
    """Run the job without a crash."""
    return asyncio.run(run([], job))


def test_without_a_crash_the_job_ends_with_its_best_revision() -> None:
    (groups, validations, scores), ended = undisturbed()
    assert ended.state.value == "succeeded"
    assert ended.result == ended.revision
    assert [len(each) for each in groups] == [3, 3, 3, 3, 2]
    assert [claim is not None for claim in validations] == [False, True, False, True, True]
    assert [number for number, *_ in scores] == [2, 4, 5]


@settings(max_examples=60)
@given(lives=st.lists(st.integers(0, 60), max_size=6))
def test_no_crash_changes_a_row_or_the_order(lives: list[int]) -> None:
    (groups, validations, scores), ended = asyncio.run(run(lives, job))
    (expected, expected_validations, _), whole = undisturbed()
    assert (groups, validations) == (expected, expected_validations)
    assert (ended.state, ended.result) == (whole.state, whole.result)
    assert sorted({number for number, *_ in scores}) == [2, 4, 5]  # a repeated one is stored once
