"""Rows of files for training and evaluation: drawn by `core.row_order`, read from local copies."""

import asyncio

import numpy as np

from mint_common.datasets import RowLine, RowProblem
from mint_common.events import EvaluationPlan, JobData, JobFile, JobSpec
from services.rollout.adapters.local_rows import LocalRows
from services.rollout.core.fault import RowSource
from services.rollout.core.row_bounds import RowBounds, step_bounds, validation_bounds
from services.rollout.core.row_order import RowNumbers, held_out, rows_of_step, validation_rows
from services.rollout.core.validation import MeasuredFile, measured_file


class FileRows:
    """The rows of jobs and of evaluation runs. Raises DataRefused, and as `LocalRows`."""

    def __init__(self, files: LocalRows) -> None:
        self._files = files

    async def of_step(self, spec: JobSpec, data: JobData, step: int) -> list[RowLine]:
        """Return the rows that a step trains on."""
        plan = data.evaluation
        holdout = 0.0 if plan is None else measured_file(data, plan).holdout
        bounds = step_bounds(data)
        rows, _ = await self._split(data.training, holdout, bounds.source)
        # A million rows take tenths of a second to shuffle.
        drawn = await asyncio.to_thread(
            rows_of_step,
            rows,
            seed=spec.seed,
            epochs=data.epochs,
            step=step,
            rows_per_step=spec.prompts_per_step,
        )
        return await self._bounded(data.training, drawn, bounds)

    async def for_validation(self, spec: JobSpec, data: JobData, plan: EvaluationPlan) -> list[RowLine]:
        """Return the rows that a job's revisions are measured on."""
        measured = measured_file(data, plan)
        rows = await self.measured(measured, seed=spec.seed, most=plan.rows)
        return await self._bounded(measured.file, rows, validation_bounds(measured))

    async def measured(self, measured: MeasuredFile, *, seed: int, most: int) -> RowNumbers:
        """Return the numbers of the rows for measuring, at most ``most`` of them."""
        rows, held = await self._split(measured.file, measured.holdout, measured.source)
        chosen = held if measured.holdout else rows
        return await asyncio.to_thread(validation_rows, chosen, seed=seed, most=most)

    async def lines(self, file: JobFile, rows: RowNumbers) -> list[RowLine]:
        """Return rows of a file."""
        return await self._files.lines(file.content, rows)

    async def _bounded(self, file: JobFile, rows: RowNumbers, bounds: RowBounds) -> list[RowLine]:
        """Return rows that are worked on together, read only if they are within their bounds."""
        bounds.check_bytes(await self._files.size_bytes(file.content, rows))
        return await self.lines(file, rows)

    async def _split(self, file: JobFile, holdout: float, source: RowSource) -> tuple[RowNumbers, RowNumbers]:
        """Return the rows of a file that are trained on and those that are held out."""
        count = await self._files.count(file.content)
        if not count:
            raise source.refused("no_rows", "it has no rows")
        rows = np.arange(count)
        if not holdout:
            return rows, rows[:0]
        try:
            keys = await self._files.keys(file.content)
        except RowProblem as problem:
            raise source.refused(problem.code, problem.message) from problem
        is_held = await asyncio.to_thread(held_out, keys, holdout)
        if is_held.all():
            why = "all rows would be held out for validation: there must be several different ones"
            raise source.refused("too_few_rows", why)
        return rows[~is_held], rows[is_held]
