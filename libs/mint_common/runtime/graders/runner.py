"""Runs graders over answers: one reward or fault for each, independent of the others.

Invariants: nothing blocks the event loop or its default threads; users' source runs only in a sandbox; a
tenant has at most all but one of the threads at a time; an answer's fault affects only that answer.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from mint_common.errors import InvalidField, MintError, Unavailable, trace_of
from mint_common.graders import Grade, GradedSample, GraderFault, GraderSpec, PythonGrader
from mint_common.graders.formula import Formula
from mint_common.graders.grade import Variables, combine, grade_plain, score_in
from mint_common.graders.specs import MultiGrader, ScoreModel, SingleGrader, parts_of
from mint_common.ids import TenantId
from mint_common.job_errors import GraderNotSupported
from mint_common.runtime.fair_gate import FairGate
from mint_common.runtime.graders.judge import JUDGE_TOKENS, Judge, Question, QuestionMessage
from mint_common.runtime.graders.python import PythonSandbox

TEXTS = 2
"""Threads that compare texts: they hold the interpreter's lock."""

SLICE_SECONDS = 0.05
"""Time slice of one call's samples on a thread before other calls have their turn."""

_log = logging.getLogger(__name__)
_OFF = "the operator has turned them off."
Item = TypeVar("Item")
T = TypeVar("T")


class GraderRunner:
    """See the module; made by `open_graders`. ``sandbox`` None: python graders are refused."""

    def __init__(self, *, judge: Judge, sandbox: PythonSandbox | None, workers: int) -> None:
        self._judge = judge
        self._sandbox = sandbox
        self._texts = _Threads("grader-text", TEXTS)
        self._sources = _Threads("grader-source", workers)

    async def check(self, spec: GraderSpec, *, tenant_id: TenantId) -> None:
        """Check a grader's requirements: that its source runs, and its model is served and immutable.

        Raises InvalidField naming the field, GraderNotSupported, Unavailable.
        """
        for field, part in parts_of(spec):
            if isinstance(part, PythonGrader):
                if self._sandbox is None:
                    raise GraderNotSupported(type="python", problem=_OFF)
                try:
                    await self._sources.run(tenant_id, partial(self._sandbox.check, part.source))
                except GraderFault as fault:
                    if fault.kind == "python_grader_server_error":
                        raise Unavailable(what="python graders", problem=fault.message) from fault
                    raise InvalidField(field=f"{field}.source", problem=fault.message) from fault
            elif isinstance(part, ScoreModel):
                await self._judge.check(part.model, tenant_id=tenant_id, field=f"{field}.model")

    async def grade(
        self, spec: GraderSpec, samples: Sequence[GradedSample], *, tenant_id: TenantId
    ) -> list[Grade | GraderFault]:
        """Return the reward of each sample, in order, or why it has none.

        Cancelling begins no more, and waits for what runs: not longer than a source may take.
        """
        if not isinstance(spec, MultiGrader):
            found = await self._rewards(spec, samples, tenant_id)
            return [each if isinstance(each, GraderFault) else Grade(reward=each) for each in found]
        parts = {name: await self._rewards(part, samples, tenant_id) for name, part in spec.graders.items()}
        formula = Formula(spec.calculate_output, frozenset(spec.graders))
        rewards = [{name: found[at] for name, found in parts.items()} for at in range(len(samples))]
        return await self._texts.each(tenant_id, partial(_combined, formula), rewards)

    def close(self) -> None:
        """End the threads and the sandbox."""
        for threads in (self._texts, self._sources):
            threads.close()
        if self._sandbox is not None:
            self._sandbox.close()

    async def _rewards(
        self, spec: SingleGrader, samples: Sequence[GradedSample], tenant_id: TenantId
    ) -> list[float | GraderFault]:
        match spec:
            case PythonGrader(source=source):
                return await self._sources.each(tenant_id, partial(self._run, source), samples)
            case ScoreModel():
                async with asyncio.TaskGroup() as tasks:
                    asked = [tasks.create_task(self._score(spec, each, tenant_id)) for each in samples]
                return [task.result() for task in asked]
            case _:
                return await self._texts.each(tenant_id, partial(grade_plain, spec), samples)

    def _run(self, source: str, sample: GradedSample) -> float:
        if self._sandbox is None:
            raise GraderFault("python_grader_server_error", f"python graders do not run: {_OFF}")
        return self._sandbox.grade(source, sample)

    async def _score(
        self, spec: ScoreModel, sample: GradedSample, tenant_id: TenantId
    ) -> float | GraderFault:
        async def question() -> Question:
            (made,) = await self._texts.each(tenant_id, partial(_question, spec), [sample])
            if isinstance(made, GraderFault):
                raise made
            return made

        low, high = spec.range
        try:
            answer = await self._judge.ask(question, tenant_id=tenant_id)
            return score_in(answer.text, low=low, high=high, is_cut=answer.is_cut)
        except GraderFault as fault:
            return fault
        except MintError as error:
            return GraderFault("model_grader_server_error", str(error))


class _Threads:
    """A bounded number of threads, of which a tenant has all but one at most."""

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._of_a_tenant = max(1, threads - 1)
        self._turns = FairGate(threads, limit=self._of_a_tenant)

    async def run(self, tenant_id: TenantId, call: Callable[[], T]) -> T:
        """Return the result of a call. If the caller leaves, its turn lasts until the thread is free."""
        async with self._turns.turn(tenant_id):
            running = asyncio.get_running_loop().run_in_executor(self._pool, call)
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                await asyncio.wait((running,))
                raise

    async def each(
        self, tenant_id: TenantId, call: Callable[[Item], T], items: Sequence[Item]
    ) -> list[T | GraderFault]:
        """Return the result of a call for each item, in order, or the GraderFault that it raises."""
        waiting = deque(enumerate(items))
        done: dict[int, T | GraderFault] = {}

        def some() -> None:
            began = time.monotonic()
            while waiting and time.monotonic() < began + SLICE_SECONDS:
                try:
                    at, item = waiting.popleft()
                except IndexError:  # another thread took the last one
                    return
                try:
                    done[at] = call(item)
                except GraderFault as fault:
                    done[at] = fault
                except Exception as error:  # noqa: BLE001  # of the samples, only this one has no reward
                    _log.warning("grader raised", extra={"error": trace_of(error)})
                    problem = f"the grader does not run: {type(error).__name__}"
                    done[at] = GraderFault("other_error", problem)

        async def lane() -> None:
            while waiting:
                await self.run(tenant_id, some)

        async with asyncio.TaskGroup() as lanes:
            for _ in range(min(self._of_a_tenant, len(items))):
                lanes.create_task(lane())
        return [done[at] for at in range(len(items))]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _combined(formula: Formula, rewards: Mapping[str, float | GraderFault]) -> Grade:
    """Return the reward of a sample from its parts'. Raises GraderFault: the first part's that has none."""
    found: dict[str, float] = {}
    for name, reward in rewards.items():
        if isinstance(reward, GraderFault):
            raise reward
        found[name] = reward
    return combine(formula, found)


def _question(spec: ScoreModel, sample: GradedSample) -> Question:
    """Return the scoring model's request for a sample. Raises GraderFault."""
    sampling = spec.sampling_params
    texts = Variables(sample).fill(*(message.text for message in spec.input))
    return Question(
        model=spec.model,
        messages=tuple(
            QuestionMessage(role=message.role, content=text)
            for message, text in zip(spec.input, texts, strict=True)
        ),
        temperature=(sampling and sampling.temperature) or 0.0,
        top_p=(sampling and sampling.top_p) or 1.0,
        max_completion_tokens=(sampling and sampling.max_completions_tokens) or JUDGE_TOKENS,
        seed=sampling.seed if sampling else None,
    )
