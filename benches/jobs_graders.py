"""How many answers a second does a core grade by source of a user, in either sandbox, as jobs do?

Seconds are those of a processor, of this process and of the sandbox's together: what else the machine does
changes them little. The limit is the sandbox called directly, without the runner's turns and threads.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, NoReturn

import psutil

from benches.report import Report, Row, make_row
from mint_common.graders import GradedSample, GraderFault, PythonGrader
from mint_common.ids import TenantId
from mint_common.runtime.graders.monty import MontySandbox
from mint_common.runtime.graders.process import ProcessSandbox
from mint_common.runtime.graders.python import PythonSandbox
from mint_common.runtime.graders.runner import GraderRunner

ROUNDS = 7
CALLS = {"monty": 2048, "process": 128}
GOALS = {"monty": 2000.0, "process": 15.0}
SOURCE = """
import re

def grade(sample, item):
    found = re.findall(r"-?\\d+", sample["output_text"])
    return 1.0 if found and int(found[-1]) == item["answer"] else 0.0
"""
SAMPLE = GradedSample(
    output_text="First 6 times 7, which is 42, and nothing is left over: the answer is 42",
    item={"answer": 42, "question": "What is 6 times 7?"},
)


def run() -> Report:
    """Measure."""
    sandboxes: dict[str, PythonSandbox] = {
        "monty": MontySandbox(workers=1, seconds=2.0, memory_bytes=256 << 20),
        "process": ProcessSandbox(workers=1, seconds=2.0, memory_bytes=256 << 20),
    }
    found = {name: asyncio.run(_measure(sandbox, CALLS[name])) for name, sandbox in sandboxes.items()}

    def draw(figure: Any) -> None:
        for place, (name, (served, bare)) in enumerate(found.items()):
            axes = figure.add_subplot(1, 2, 1 + place)
            axes.plot(bare, color="#b0b0b0", label="the sandbox alone")
            axes.plot(served, color="#2a6f97", label="as jobs grade")
            axes.set_title(f"{name}: answers a second of a processor")
            axes.set_xlabel("round")
            axes.set_ylim(bottom=0)
            axes.legend()

    return Report(bench="jobs_graders", rows=[_row(name, *rates) for name, rates in found.items()], draw=draw)


async def _measure(sandbox: PythonSandbox, calls: int) -> tuple[list[float], list[float]]:
    """Return answers a second of each round, by the runner and by the sandbox alone, in turn."""
    runner = GraderRunner(judge=_NoJudge(), sandbox=sandbox, workers=1)
    spec, tenant = PythonGrader(name="answer", source=SOURCE), TenantId("default")
    served, bare = list[float](), list[float]()
    try:
        for number in range(ROUNDS + 1):
            began = _cpu_seconds()
            found = await runner.grade(spec, [SAMPLE] * calls, tenant_id=tenant)
            between = _cpu_seconds()
            alone = [sandbox.grade(SOURCE, SAMPLE) for _ in range(calls)]
            ended = _cpu_seconds()
            assert not [each for each in found if isinstance(each, GraderFault) or each.reward != 1.0]
            assert alone == [1.0] * calls
            if number:  # the first one starts the sandbox
                served.append(calls / (between - began))
                bare.append(calls / (ended - between))
    finally:
        runner.close()
    return served, bare


def _cpu_seconds() -> float:
    """Return what this process and all that it started have used."""
    own = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in (own, *own.children(recursive=True)))


def _row(name: str, served: Sequence[float], bare: Sequence[float]) -> Row:
    return make_row(
        f"grader_calls_per_s_{name}",
        served,
        unit="/s",
        goal=GOALS[name],
        better="higher",
        limit=max(bare),
        how=f"answers graded by a source with a regular expression, {CALLS[name]} a round, over the"
        " seconds of a processor that they took; limit: the fastest round of the sandbox alone",
    )


class _NoJudge:
    """No model is asked."""

    async def check(self, model: str, *, tenant_id: TenantId, field: str) -> NoReturn:
        """Fail."""
        raise AssertionError(model, tenant_id, field)

    async def ask(self, question: object, *, tenant_id: TenantId) -> NoReturn:
        """Fail."""
        raise AssertionError(question, tenant_id)
