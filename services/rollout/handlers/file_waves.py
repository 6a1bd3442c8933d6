"""Waves of jobs on files: rows rendered as records, sampled and graded where their algorithm asks for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mint_common.algorithms import Algorithms
from mint_common.blobs.port import Blobs
from mint_common.claims import Claim
from mint_common.datasets import RenderedRow, RowLine, RowProblem
from mint_common.events import EvaluationPlan, JobData, WaveRequested
from mint_common.generation import LogprobsMode
from mint_common.graders import GraderFault
from mint_common.ids import JobId
from mint_common.records import Group, WaveRecord, decode_rows
from services.rollout.adapters.engine_sampler import EngineSampler
from services.rollout.core.dynamic_groups import FurtherDraw, StepGroups
from services.rollout.core.fault import RowSource
from services.rollout.core.grading import error_counts
from services.rollout.core.job import wave_id_of
from services.rollout.core.row_bounds import RowBounds, step_bounds, validation_bounds
from services.rollout.core.row_groups import groups_of, prompt_of, trained_tokens
from services.rollout.core.sampling import logprobs_mode, plan_samples, record_of
from services.rollout.core.validation import is_evaluated, measured_file
from services.rollout.core.wave import WaveCounts
from services.rollout.handlers.dynamic_waves import with_further_groups
from services.rollout.handlers.file_rows import FileRows
from services.rollout.handlers.graded_samples import GradedSamples
from services.rollout.handlers.record_blobs import store_record
from services.rollout.handlers.row_rendering import Rendered, RowRenderer

_MAX_KNOWN = 256
_MAX_DROPPED = 256
"""Maximum rows dropped one after another before their file is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileWave:
    """The record of a wave, its validation record, and its counts."""

    record: WaveRecord
    validation: Claim | None
    counts: WaveCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Validation:
    claim: Claim
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileWaves:
    """Makes records of rows. Raises DataRefused for data that cannot be trained on."""

    blobs: Blobs
    rows: FileRows
    renderer: RowRenderer
    samples: GradedSamples
    sampler: EngineSampler
    algorithms: Algorithms
    _validations: dict[JobId, _Validation] = field(default_factory=dict, init=False)

    async def complete(self, event: WaveRequested, data: JobData) -> FileWave:
        """Return the training record of a wave's rows."""
        rows = decode_rows(await self.blobs.get(event.prompts))
        if event.spec.is_sampled:
            return await self._sample(event, data, rows)
        rendered, _ = await self._render_step(event, data, rows)
        groups = _groups(rendered.rows, step_bounds(data).source)
        validation = await self._validation(event, data)
        counts = WaveCounts(
            dropped_rows=rendered.dropped,
            trained_tokens=trained_tokens(groups),
            validation_rows=validation.rows if validation else 0,
        )
        return FileWave(
            record=record_of(event, self._mode(event), groups),
            validation=validation.claim if validation else None,
            counts=counts,
        )

    def _mode(self, event: WaveRequested) -> LogprobsMode:
        return logprobs_mode(self.algorithms.named(event.spec.algorithm))

    async def _render_step(
        self,
        event: WaveRequested,
        data: JobData,
        rows: Sequence[RowLine],
        max_tokens: int | None = None,
    ) -> tuple[Rendered, Sequence[RowLine]]:
        """Return a step's rows as tokens; if all are dropped, other rows, as of a step after the last."""
        bounds, step, dropped = step_bounds(data), event.step, 0
        while dropped < _MAX_DROPPED:
            rendered = await self._render(event, data, rows, bounds, max_tokens=max_tokens)
            dropped += rendered.dropped
            if rendered.rows:
                return replace(rendered, dropped=dropped), rows
            step += event.spec.steps
            rows = await self.rows.of_step(event.spec, data, step)
        problem = f"{dropped} rows one after another are longer than the base's context"
        raise bounds.source.refused("too_long", problem)

    async def _render(
        self,
        event: WaveRequested,
        data: JobData,
        rows: Sequence[RowLine],
        bounds: RowBounds,
        *,
        max_tokens: int | None = None,
    ) -> Rendered:
        return await self.renderer.render(
            event.base,
            rows,
            bounds.source,
            tenant_id=event.tenant_id,
            method=self.algorithms.named(event.spec.algorithm).rows,
            on_long=data.on_long,
            max_tokens=max_tokens,
            bounds=bounds,
        )

    async def _sample(self, event: WaveRequested, data: JobData, rows: Sequence[RowLine]) -> FileWave:
        context = await self.sampler.max_context(event.base)
        longest = max(1, context - event.spec.max_new_tokens)
        rendered, rows = await self._render_step(event, data, rows, longest)
        algorithm, dropped, faults = self.algorithms.named(event.spec.algorithm), 0, list[GraderFault]()

        async def sample(rendered: Rendered, rows: Sequence[RowLine], *, begin: int) -> list[Group | None]:
            nonlocal dropped
            lines = {row.line: row.data for row in rows}
            dropped += rendered.dropped
            requests = plan_samples(event, algorithm, [prompt_of(row) for row in rendered.rows], begin=begin)
            graded = await self.samples.of(
                data,
                requests,
                [lines[row.line] for row in rendered.rows],
                earlier=begin * event.spec.group_size,
            )
            faults.extend(fault for one in graded for fault in one.faults)
            return [one.group for one in graded]

        async def further(draw: FurtherDraw, _: StepGroups) -> list[Group | None]:
            # Those of a step after the last: further rows of the same order.
            after = event.step + draw.round * event.spec.steps
            more = (await self.rows.of_step(event.spec, data, after))[: draw.count]
            bounds = step_bounds(data)
            return await sample(
                await self._render(event, data, more, bounds, max_tokens=longest), more, begin=draw.begin
            )

        step = await with_further_groups(event.spec, await sample(rendered, rows, begin=0), further)
        counts = WaveCounts(
            dropped_rows=dropped,
            trained_tokens=trained_tokens(step.kept),
            grader_errors=error_counts(faults),
            replaced_groups=len(step.replaced),
        )
        record = record_of(event, self._mode(event), step.kept, replaced=step.replaced)
        return FileWave(record=record, validation=None, counts=counts)

    async def _validation(self, event: WaveRequested, data: JobData) -> _Validation | None:
        """Return the validation record of the wave's step: the same bytes at each such step.

        The first step renders it in any case, so that a bad row is found before any training.
        """
        plan = data.evaluation
        is_due = is_evaluated(plan, step=event.step, steps=event.spec.steps)
        if plan is None or not (is_due or event.step == 1):
            return None
        known = self._validations.get(event.job_id)
        if known is None:
            known = await self._store_validation(event, data, plan)
            if len(self._validations) >= _MAX_KNOWN:
                del self._validations[next(iter(self._validations))]
            self._validations[event.job_id] = known
        return known if is_due else None

    async def _store_validation(
        self, event: WaveRequested, data: JobData, plan: EvaluationPlan
    ) -> _Validation:
        rows = await self.rows.for_validation(event.spec, data, plan)
        measured = measured_file(data, plan)
        rendered = await self._render(event, data, rows, validation_bounds(measured))
        if not rendered.rows:
            problem = "all rows that revisions are measured on are longer than the base's context"
            raise measured.source.refused("too_long", problem)
        groups = _groups(rendered.rows, measured.source)
        # Of no wave and no revision: the same bytes whichever step they were rendered for.
        record = WaveRecord(wave_id=wave_id_of(event.job_id, 0), revision=None, groups=tuple(groups))
        claim = await store_record(
            self.blobs, record, policy_id=event.policy_id, job_id=event.job_id, name="validation"
        )
        return _Validation(claim=claim, rows=len(rendered.rows))


def _groups(rows: Sequence[RenderedRow], source: RowSource) -> list[Group]:
    groups: list[Group] = []
    for row in rows:
        try:
            groups += groups_of(row)
        except RowProblem as problem:
            raise source.row_refused(row.line, problem.code, problem.message) from problem
    return groups
