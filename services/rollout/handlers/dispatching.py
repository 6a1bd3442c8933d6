"""Which handler gets which event of a job."""

from mint_common.bus.port import Bus
from mint_common.events import (
    JobFinished,
    JobSubmitted,
    RevisionPublished,
    RevisionRejected,
    TrainingFailed,
    WaveCompared,
    WaveRequested,
)
from mint_common.runtime.clock import Clock
from mint_common.runtime.dispatch import Dispatcher
from services.rollout.handlers.jobs import JobHandlers
from services.rollout.handlers.tenant_turns import deliveries_of
from services.rollout.handlers.waves import WaveHandlers

WAVES = "rollout-waves"
"""The subscription to requests for waves."""


def dispatch(
    of_jobs: JobHandlers, of_waves: WaveHandlers, bus: Bus, clock: Clock
) -> tuple[Dispatcher, Dispatcher]:
    """Return the dispatchers of short and of long work, so that a wave never delays another job.

    A tenant's draws of prompts leave half of the short ones to other tenants' events.

    They have no ledger: a duplicate ends here and does not repeat its effects. The watchdog repeats the event
    that a job waits for; if every duplicate did, each repetition would follow its job to the end.
    """
    short = Dispatcher(
        bus=bus, ledger=None, durable="rollout", clock=clock, concurrency=deliveries_of(of_jobs.draws)
    )
    short.on(JobSubmitted, of_jobs.on_job_submitted, given_up=of_jobs.on_job_given_up)
    short.on(JobFinished, of_jobs.on_job_finished)
    short.on(RevisionPublished, of_jobs.on_revision_published, given_up=of_jobs.on_fact_given_up)
    short.on(WaveCompared, of_jobs.on_wave_compared)
    short.on(RevisionRejected, of_jobs.on_step_failed, given_up=of_jobs.on_fact_given_up)
    short.on(TrainingFailed, of_jobs.on_step_failed, given_up=of_jobs.on_fact_given_up)
    taken = deliveries_of(of_waves.turns)
    work = Dispatcher(bus=bus, ledger=None, durable=WAVES, clock=clock, concurrency=taken)
    work.on(WaveRequested, of_waves.on_wave_requested, given_up=of_waves.on_wave_given_up)
    return short, work
