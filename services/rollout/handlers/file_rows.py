"""Which rows of its files a job reads: drawn by `core.row_order`, read through the files' port."""

import asyncio

import numpy as np

from mint_common.datasets import RowLine, RowProblem
from mint_common.events import EvaluationPlan, JobData, JobFile, JobSpec
from services.rollout.core.fault import FileParam, file_refused
from services.rollout.core.row_order import RowNumbers, held_out, rows_of_step, validation_rows
from services.rollout.ports import RowFiles


class FileRows:
    """The rows of jobs. Raises DataRefused, and what the files' port raises."""

    def __init__(self, files: RowFiles) -> None:
        self._files = files

    async def of_step(self, spec: JobSpec, data: JobData, step: int) -> list[RowLine]:
        """Return the rows that a step trains on."""
        rows, _ = await self._split(data)
        # A million rows take tenths of a second to shuffle.
        drawn = await asyncio.to_thread(
            rows_of_step,
            rows,
            seed=spec.seed,
            epochs=data.epochs,
            step=step,
            rows_per_step=spec.prompts_per_step,
        )
        return await self._files.lines(data.training.content, drawn)

    async def for_validation(self, spec: JobSpec, data: JobData, plan: EvaluationPlan) -> list[RowLine]:
        """Return the rows that a job's revisions are measured on."""
        if plan.file is None:
            content, (_, rows) = data.training.content, await self._split(data)
        else:
            content = plan.file.content
            rows = await self._all(plan.file, "validation_file")
        chosen = await asyncio.to_thread(validation_rows, rows, seed=spec.seed, most=plan.rows)
        return await self._files.lines(content, chosen)

    async def _split(self, data: JobData) -> tuple[RowNumbers, RowNumbers]:
        """Return the rows that are trained on and those that are held out."""
        plan, file = data.evaluation, data.training
        rows = await self._all(file, "training_file")
        if plan is None or plan.file is not None:
            return rows, rows[:0]
        try:
            keys = await self._files.keys(file.content)
        except RowProblem as problem:
            code, message = problem.code, problem.message
            raise file_refused(
                file=file.filename, param="training_file", code=code, problem=message
            ) from problem
        is_held = await asyncio.to_thread(held_out, keys, plan.holdout)
        if is_held.all():
            why = "all rows would be held out for validation: there must be several different ones"
            raise file_refused(file=file.filename, param="training_file", code="too_few_rows", problem=why)
        return rows[~is_held], rows[is_held]

    async def _all(self, file: JobFile, param: FileParam) -> RowNumbers:
        count = await self._files.count(file.content)
        if not count:
            raise file_refused(file=file.filename, param=param, code="no_rows", problem="it has no rows")
        return np.arange(count)
