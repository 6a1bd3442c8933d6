"""Runs graders over answers: one reward or fault for each, whatever the others come to.

Invariants: nothing blocks the event loop or its default threads; source of users runs in a sandbox alone; a
tenant has at most all but one of the threads at a time; an answer's fault ends with the answer.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mint_common.errors import InvalidField, MintError
from mint_common.graders import (
    Grade,
    GradedSample,
    GraderFault,
    GraderNotSupported,
    GraderSpec,
    MultiGrader,
    PythonGrader,
    ScoreModel,
    SingleGrader,
    Variables,
    combine,
    grade_plain,
    parts_of,
    score_in,
)
from mint_common.ids import TenantId
from mint_common.runtime.graders.judge import JUDGE_TOKENS, Judge, Message, Question
from mint_common.runtime.graders.python import PythonSandbox
from mint_common.runtime.tenant_limiter import TenantLimiter

QUESTIONS = 32
"""To models, that wait for an answer at the same time."""
TENANT_QUESTIONS = 16
TEXTS = 2
"""Threads that compare texts: they hold the interpreter's lock."""

_OFF = "the operator has turned them off."
T = TypeVar("T")


class GraderRunner:
    """See the module; made by `open_graders`. ``sandbox`` None: python graders are refused."""

    def __init__(self, *, judge: Judge, sandbox: PythonSandbox | None, workers: int) -> None:
        self._judge = judge
        self._sandbox = sandbox
        self._texts = _Threads("grader-text", TEXTS)
        self._sources = _Threads("grader-source", workers)
        self._questions = TenantLimiter(QUESTIONS, of_a_tenant=TENANT_QUESTIONS)

    async def check(self, spec: GraderSpec, *, tenant_id: TenantId) -> None:
        """Check what a grader needs: that its source runs, and its model is served and does not change.

        Raises InvalidField naming the field, GraderNotSupported, Unavailable.
        """
        for field, part in parts_of(spec):
            if isinstance(part, PythonGrader):
                if self._sandbox is None:
                    raise GraderNotSupported(type="python", problem=_OFF)
                try:
                    await self._sources.run(tenant_id, self._sandbox.check, part.source)
                except GraderFault as fault:
                    raise InvalidField(field=f"{field}.source", problem=fault.message) from fault
            elif isinstance(part, ScoreModel):
                await self._judge.check(part.model, tenant_id=tenant_id, field=f"{field}.model")

    async def grade(
        self, spec: GraderSpec, samples: Sequence[GradedSample], *, tenant_id: TenantId
    ) -> list[Grade | GraderFault]:
        """Return the reward of each sample, in order, or why it has none.

        Cancelling begins no more, and waits for what runs: not longer than a source may take.
        """
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self._grade(spec, sample, tenant_id)) for sample in samples]
        return [task.result() for task in running]

    def close(self) -> None:
        """End the threads and the sandbox."""
        for threads in (self._texts, self._sources):
            threads.close()
        if self._sandbox is not None:
            self._sandbox.close()

    async def _grade(
        self, spec: GraderSpec, sample: GradedSample, tenant_id: TenantId
    ) -> Grade | GraderFault:
        variables = Variables(sample)
        try:
            if not isinstance(spec, MultiGrader):
                return Grade(reward=await self._reward(spec, variables, tenant_id))
            rewards: dict[str, float] = {}
            for name, part in spec.graders.items():
                rewards[name] = await self._reward(part, variables, tenant_id)
            return combine(spec, rewards)
        except GraderFault as fault:
            return fault

    async def _reward(self, spec: SingleGrader, variables: Variables, tenant_id: TenantId) -> float:
        match spec:
            case PythonGrader(source=source):
                if self._sandbox is None:
                    raise GraderFault("python_grader_server_error", f"python graders do not run: {_OFF}")
                return await self._sources.run(tenant_id, self._sandbox.grade, source, variables.sample)
            case ScoreModel():
                return await self._score(spec, variables, tenant_id)
            case _:
                return await self._texts.run(tenant_id, grade_plain, spec, variables)

    async def _score(self, spec: ScoreModel, variables: Variables, tenant_id: TenantId) -> float:
        question = await self._texts.run(tenant_id, _question, spec, variables)
        try:
            async with self._questions.turn(tenant_id):
                answer = await self._judge.ask(question, tenant_id=tenant_id)
        except MintError as error:
            raise GraderFault("model_grader_server_error", str(error)) from error
        low, high = spec.range
        return score_in(answer.text, low=low, high=high, is_cut=answer.is_cut)


class _Threads:
    """A bounded number of threads, of which a tenant has all but one at most."""

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._turns = TenantLimiter(threads, of_a_tenant=max(1, threads - 1))

    async def run(self, tenant_id: TenantId, call: Callable[..., T], *arguments: object) -> T:
        """Return what a call returns. A caller that leaves has its turn until the thread is free again."""
        async with self._turns.turn(tenant_id):
            running = asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                await asyncio.wait((running,))
                raise

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _question(spec: ScoreModel, variables: Variables) -> Question:
    """Return what a model is asked about a sample. Raises GraderFault."""
    sampling = spec.sampling_params
    return Question(
        model=spec.model,
        messages=tuple(
            Message(role=message.role, content=variables.fill(message.text)) for message in spec.input
        ),
        temperature=(sampling and sampling.temperature) or 0.0,
        top_p=(sampling and sampling.top_p) or 1.0,
        seed=sampling.seed if sampling else None,
        max_tokens=(sampling and sampling.max_completions_tokens) or JUDGE_TOKENS,
    )
