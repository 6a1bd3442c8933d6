"""One sample: its order, and its state as its client sees it."""

from dataclasses import dataclass

from mint_common.claims import RevisionRef
from mint_common.errors import MintError
from mint_common.generation import AdapterStatus, SampleRequest
from mint_common.ids import BaseName, TenantId, derive_id
from mint_common.inference.sizes import packed_answer_bytes
from services.gateway.core.tinker.futures import FutureFailed, FuturePending
from services.gateway.core.tinker.sampling_request import SamplePlan


class SampleConflict(MintError):
    """Sample {seq_id} of sampling session {sampling_session_id!r} was submitted before with other content."""

    code = "sample_conflict"
    http_status = 422


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleOrder:
    """A checked sample for a base at a revision; ``key`` is the API key, in whose queue it waits."""

    tenant_id: TenantId
    key: str
    base: BaseName
    revision: RevisionRef | None
    plan: SamplePlan

    @property
    def request_id(self) -> str:
        """Return its id, which is the same for a repeated submission."""
        return derive_id("smp", self.plan.sampling_session_id, self.plan.seq_id)

    @property
    def seats(self) -> int:
        """Return its seats on the engines: one per sequence, and one for the request."""
        return 1 + self.plan.sampling.n

    @property
    def prompt_bytes(self) -> int:
        """Return the memory of its prompt while it waits."""
        return 8 * len(self.plan.tokens)

    def to_request(self) -> SampleRequest:
        """Return the request to the engine."""
        return SampleRequest(
            request_id=self.request_id,
            tenant_id=self.tenant_id,
            revision=self.revision,
            tokens=self.plan.tokens,
            sampling=self.plan.sampling,
            prompt_logprobs=self.plan.prompt_logprobs,
        )


def sample_answer_bytes(plan: SamplePlan) -> int:
    """Return the maximum size of its answer."""
    return packed_answer_bytes(
        sequences=plan.samples,
        new_tokens=plan.sampling.max_new_tokens,
        likeliest=plan.sampling.logprobs or 0,
        prompt_tokens=len(plan.tokens),
        prompt_likeliest=plan.prompt_logprobs,
    )


def sequence_ids(plan: SamplePlan) -> list[str]:
    """Return an id for each sequence of a sample, known before it is sampled."""
    return [f"{plan.sampling_session_id}:{plan.seq_id}:{at}" for at in range(plan.samples)]


def describe_failure(error: MintError) -> FutureFailed:
    """Return the answer for a failed sample."""
    is_users = error.http_status < 500 and not error.retryable
    return FutureFailed(message=str(error), category="user" if is_users else "server")


def describe_wait(status: AdapterStatus) -> FuturePending:
    """Return the answer to a client whose sample runs, or waits for its adapter."""
    if status.readiness == "ready":
        return FuturePending()
    if status.queue_position is None:
        reason = f"its weights are being loaded ({status.state})"
    else:
        reason = f"its weights wait to be loaded, behind {status.queue_position} others"
    return FuturePending(queue_state="paused_capacity", reason=reason)
