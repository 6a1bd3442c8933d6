"""The first rows of a file, rendered by the base's trainer before a job is created.

A fault of every row for this base, such as a missing template, is reported at once instead of by a
failed job. The check is optional: if no trainer answers in time, rows are first rendered when the job
draws them.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.datasets import Problem, RenderRequest
from mint_common.errors import MintError, NotFound
from mint_common.ids import BaseName, TenantId
from mint_common.tenant_budget import TenantBudget
from services.rollout.core.files.previews import MAX_TOKENS
from services.rollout.core.fine_tuning.plan import JobFiles, JobPlan
from services.rollout.core.fine_tuning.refusals import file_not_found, row_refused
from services.rollout.handlers.files import FileKeeper

ROWS = 8
SECONDS = 3.0
"""Time that a request may spend on the first rows of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRows:
    """Renders the first rows of files. ``previewing`` bounds how many renderings a tenant has at a time."""

    keeper: FileKeeper
    trainers: TrainerDirectory
    previewing: TenantBudget

    async def check(self, files: JobFiles, plan: JobPlan, base: BaseFacts) -> None:
        """Refuse a file that was removed, or has a first row that cannot be rendered. Raises JobRefused."""
        data = plan.spec.data
        assert data is not None, "a job on a file"
        room = plan.spec.max_new_tokens if plan.spec.is_sampled else 0
        for file, field in ((files.training, "training_file"), (files.validation, files.validation_field)):
            if file is None:
                continue
            try:
                rows = await self.keeper.read_rows(file, first_line=1, count=ROWS)
            except NotFound as error:
                raise file_not_found(field, file.file_id) from error
            request = RenderRequest(
                rows=tuple(rows),
                method=plan.algorithm.rows,
                on_long=data.on_long,
                max_tokens=base.max_context - room,
                token_limit=MAX_TOKENS,
            )
            for problem in await self._problems(request, file.tenant_id, base.name):
                raise row_refused(field, problem)

    async def _problems(
        self, request: RenderRequest, tenant_id: TenantId, base: BaseName
    ) -> Sequence[Problem]:
        """Return the problems of rows that a trainer reports in time."""
        with suppress(MintError, TimeoutError), self.previewing.counted(tenant_id):
            async with asyncio.timeout(SECONDS):
                trainer = await self.trainers.find(base)
                return (await trainer.render(request)).problems
        return ()
