"""Score rows of a file: answer and grade their prompts, or measure the loss of their own answers.

Invariants: every score is of the revision that the run names; memory is limited to a block of rows and
their stored texts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import fsum, isfinite

from mint_common.datasets import RenderedExample, RenderedRow, RowLine, method_of
from mint_common.graders import GradedSample, GraderSpec, read_grader
from mint_common.runtime.graders.runner import GraderRunner
from services.rollout.adapters.engine_sampler import EngineSampler
from services.rollout.core.evaluation import (
    EvaluationData,
    EvaluationRun,
    ScoredRow,
    graded_row,
    plan_answer,
    plan_reading,
)
from services.rollout.core.grading import item_of
from services.rollout.core.row_groups import prompt_of
from services.rollout.core.row_order import RowNumbers
from services.rollout.core.sampling import check_revision
from services.rollout.core.validation import MeasuredFile
from services.rollout.handlers.engine_requests import EngineRequests, all_of
from services.rollout.handlers.file_rows import FileRows
from services.rollout.handlers.row_rendering import RowRenderer

ROWS_AT_ONCE = 64
"""Rows that are read together: each has 1 MiB at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileScores:
    """Scores the rows of runs. Raises DataRefused, InvalidField, and the ports' errors."""

    files: FileRows
    renderer: RowRenderer
    sampler: EngineSampler
    graders: GraderRunner
    requests: EngineRequests

    async def rows(
        self, run: EvaluationRun, data: EvaluationData, note: Callable[[], None]
    ) -> tuple[list[ScoredRow], int]:
        """Return the scored rows, and how many were left out. Calls ``note`` after each row."""
        grader = None if data.grader is None else read_grader(data.grader)
        context = await self.requests.retried(run.tenant_id, lambda: self.sampler.max_context(run.base))
        room = 1 if grader is None else run.max_new_tokens
        found: list[ScoredRow] = []
        dropped = 0
        measured = MeasuredFile(file=data.file, holdout=data.holdout, param="file")
        chosen = await self.files.measured(measured, seed=run.seed, most=run.n)
        for numbers in _blocks(chosen):
            lines = await self.files.lines(data.file, numbers)
            rendered = await self.renderer.render(
                run.base,
                lines,
                measured.source,
                tenant_id=run.tenant_id,
                method=method_of(data.file.format),
                on_long=data.on_long,
                max_tokens=max(1, context - room),
            )
            usable = [row for row in rendered.rows if grader or any(map(_predicted, row.examples))]
            dropped += rendered.dropped + len(rendered.rows) - len(usable)
            line_of = {line.line: line for line in lines}
            found += await all_of(self._score(run, grader, row, line_of[row.line], note) for row in usable)
        return found, dropped

    async def _score(
        self,
        run: EvaluationRun,
        grader: GraderSpec | None,
        row: RenderedRow,
        line: RowLine,
        note: Callable[[], None],
    ) -> ScoredRow:
        scored = await (self._loss(run, row) if grader is None else self._answer(run, grader, row, line))
        note()
        return scored

    async def _answer(
        self, run: EvaluationRun, grader: GraderSpec, row: RenderedRow, line: RowLine
    ) -> ScoredRow:
        request = plan_answer(run, row.line, tokens=prompt_of(row))
        sampled = await self.requests.retried(run.tenant_id, lambda: self.sampler.sample(request))
        check_revision(request, sampled)
        text = sampled.completions[0].text
        samples = [GradedSample(output_text=text, item=item_of(line.data))]
        (grade,) = await self.graders.grade(grader, samples, tenant_id=run.tenant_id)
        return graded_row(row.line, text, grade)

    async def _loss(self, run: EvaluationRun, row: RenderedRow) -> ScoredRow:
        """Return the mean loss of a row's trained tokens."""
        found = await all_of(
            self._logprobs(run, row.line, index, example) for index, example in enumerate(row.examples)
        )
        logprobs = [value for each in found for value in each]
        loss = -fsum(logprobs) / len(logprobs)
        measured = ScoredRow(row=row.line, score=loss, answer="", weight=len(logprobs))
        if isfinite(loss):
            return measured
        return replace(measured, score=None, fault="not_finite", message="its loss is not finite")

    async def _logprobs(
        self, run: EvaluationRun, line: int, index: int, example: RenderedExample
    ) -> list[float]:
        request = plan_reading(run, line, index, example.tokens)
        found = await self.requests.retried(run.tenant_id, lambda: self.sampler.read(request))
        check_revision(request, found)
        return [found.logprobs[place] for place in _predicted(example)]


def _predicted(example: RenderedExample) -> list[int]:
    """Return the places of the trained tokens; nothing predicts the first token of a sequence."""
    return [place for start, end in example.trained for place in range(max(1, start), end)]


def _blocks(rows: RowNumbers) -> Iterator[RowNumbers]:
    for begin in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[begin : begin + ROWS_AT_ONCE]
