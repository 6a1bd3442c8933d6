"""The log-probabilities of a teacher for the samples of a wave: one reading of each by an engine.

Invariant: they are those of the teacher that the job names, at the tokens that were sampled.
"""

from dataclasses import dataclass, replace

from mint_common.events import Teacher, WaveRequested
from mint_common.ids import derive_id
from mint_common.records import Group, Sample, WaveRecord
from services.rollout.adapters.engine_sampler import EngineSampler
from services.rollout.core.sampling import GroupRequest, check_revision
from services.rollout.handlers.engine_requests import EngineRequests, all_of


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherScores:
    """Reads the samples of waves. Raises the engines' errors."""

    sampler: EngineSampler
    requests: EngineRequests

    async def added(self, event: WaveRequested, record: WaveRecord) -> WaveRecord:
        """Return the record with the log-probabilities of the job's teacher, if it has one."""
        teacher = event.spec.teacher
        if teacher is None:
            return record
        context = await self.requests.retried(event.tenant_id, lambda: self.sampler.max_context(event.base))

        async def of_group(index: int, group: Group) -> Group:
            samples = await all_of(
                self._read(
                    _reading(event, teacher, group, place=(index, number), room=context - 1), group, one
                )
                for number, one in enumerate(group.samples)
            )
            return replace(group, samples=tuple(samples))

        groups = await all_of(of_group(index, group) for index, group in enumerate(record.groups))
        return replace(record, groups=tuple(groups))

    async def _read(self, request: GroupRequest, group: Group, sample: Sample) -> Sample:
        found = await self.requests.retried(request.tenant_id, lambda: self.sampler.read(request))
        check_revision(request, found)
        read = found.logprobs[len(group.prompt_tokens) :]
        return replace(sample, teacher=(*read, *sample.logprobs[len(read) :]))


def _reading(
    event: WaveRequested, teacher: Teacher, group: Group, *, place: tuple[int, int], room: int
) -> GroupRequest:
    """Return the request for the log-probabilities of the sample at a place, of its group and in it.

    An engine reads ``room`` tokens: the last one of a sample that fills the context has its sampler's.
    """
    return GroupRequest(
        request_id=derive_id("req", event.wave_id, "teacher", *place),
        tenant_id=event.tenant_id,
        base=event.base,
        revision=teacher.revision,
        prompt="",
        prompt_tokens=(*group.prompt_tokens, *group.samples[place[1]].tokens)[:room],
        n=1,
        max_new_tokens=1,
        temperature=0.0,
        seed=0,
        logprobs_mode="raw",
        routes=False,
    )
