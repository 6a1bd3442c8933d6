"""``asample``: checked against the base's limits, queued, and answered at once with a future."""

from fastapi import APIRouter, Response

from services.gateway.core.answer_bytes import check_answer_bytes
from services.gateway.core.tinker.samples import SampleOrder, sample_answer_bytes, sequence_ids
from services.gateway.core.tinker.sampling_request import SampleBody, plan_sample, sampling_session_of
from services.gateway.http.context import GatewayDep, InferCaller
from services.gateway.http.routes import TinkerRoute
from services.gateway.http.tinker.bodies import BodyDep, answer, read
from services.gateway.http.tinker.samplers import find_sampler

router = APIRouter(route_class=TinkerRoute)


@router.post("/asample")
async def asample(body: BodyDep, caller: InferCaller, gateway: GatewayDep) -> Response:
    """Queue a sample."""
    wish = read(body, SampleBody)
    opened = await find_sampler(sampling_session_of(wish), caller.tenant_id, gateway)
    engine = await gateway.tinker.samples.describe(opened.base)
    plan = plan_sample(wish, max_context=engine.max_context, vocab_size=engine.vocab_size)
    check_answer_bytes(
        sample_answer_bytes(plan),
        gateway.max_answer_bytes,
        lower=("topk_sample_logprobs", "topk_prompt_logprobs", "num_samples", "sampling_params.max_tokens"),
    )
    order = SampleOrder(
        tenant_id=caller.tenant_id,
        key=caller.key_id,
        base=opened.base,
        revision=opened.revision,
        plan=plan,
    )
    request_id = gateway.tinker.samples.submit(order)
    return answer({"request_id": request_id, "sample_sequence_ids": sequence_ids(plan)})
