"""Sampling sessions: the sampled model is resolved and pinned once, when the session opens."""

import msgspec
from fastapi import APIRouter, Response

from mint_common.errors import InvalidField, NotFound
from mint_common.ids import TenantId
from mint_common.inference.sizes import check_answer_bytes
from mint_common.json_reading import read_json
from services.gateway.core.tinker.ids import check_seq, parse_sampler_path, parse_sampling_session_id
from services.gateway.core.tinker.lora import ORG, base_name
from services.gateway.core.tinker.samples import SampleOrder, sample_answer_bytes, sequence_ids
from services.gateway.core.tinker.sampling_request import SampleBody, plan_sample, sampling_session_of
from services.gateway.core.tinker.sampling_sessions import SamplingOpening
from services.gateway.http.edge.context import InferCaller, ReadCaller
from services.gateway.http.edge.routes import TinkerRoute
from services.gateway.http.tinker.bodies import BodyDep, DataBodyDep, answer
from services.gateway.http.tinker.context import Tinker, TinkerDep

router = APIRouter(route_class=TinkerRoute)


class OpenBody(msgspec.Struct, frozen=True):
    """A sampler checkpoint's path, or the name of a base or policy."""

    session_id: str
    sampling_session_seq_id: int
    base_model: str | None = None
    model_path: str | None = None


@router.post("/create_sampling_session")
async def create_sampling_session(body: BodyDep, caller: InferCaller, tinker: TinkerDep) -> Response:
    """Open a sampling session and pin its model."""
    wish = read_json(body, OpenBody)
    await tinker.session(wish.session_id, caller.tenant_id)
    check_seq(wish.sampling_session_seq_id, field="sampling_session_seq_id", least=0)
    opening = await _plan_opening(wish, caller.tenant_id, tinker)
    sampling_session_id = await tinker.sampling_sessions.open(opening)
    return answer({"type": "create_sampling_session", "sampling_session_id": sampling_session_id})


@router.get("/samplers/{sampling_session_id}")
async def get_sampler(sampling_session_id: str, caller: ReadCaller, tinker: TinkerDep) -> Response:
    """Return the model of a sampling session."""
    opened = await find_sampler(sampling_session_id, caller.tenant_id, tinker)
    told = {"sampler_id": sampling_session_id, "base_model": opened.base_model}
    if opened.model_path is not None:
        told["model_path"] = opened.model_path
    return answer(told)


async def find_sampler(sampling_session_id: str, tenant_id: TenantId, tinker: Tinker) -> SamplingOpening:
    """Return a tenant's sampling session. Raises NotFound, also for another tenant's."""
    parse_sampling_session_id(sampling_session_id)
    opened = await tinker.sampling_sessions.get(sampling_session_id)
    if opened is None or opened.tenant_id != tenant_id:
        raise NotFound(kind="sampling session", name=sampling_session_id[:100])
    return opened


async def _plan_opening(wish: OpenBody, tenant_id: TenantId, tinker: Tinker) -> SamplingOpening:
    if wish.model_path is not None:
        return await _open_checkpoint(wish, wish.model_path, tenant_id, tinker)
    if not wish.base_model:
        raise InvalidField(field="base_model", problem="or 'model_path' is needed")
    found = await tinker.catalog.resolver.resolve(tenant_id, base_name(wish.base_model))
    return SamplingOpening(
        tenant_id=tenant_id,
        session_id=wish.session_id,
        seq=wish.sampling_session_seq_id,
        base=found.base,
        base_model=f"{ORG}{found.base}" if found.revision else wish.base_model,
        revision=found.revision,
        policy_id=found.policy_id,
    )


async def _open_checkpoint(
    wish: OpenBody, model_path: str, tenant_id: TenantId, tinker: Tinker
) -> SamplingOpening:
    path = parse_sampler_path("model_path", model_path)
    record, revision = await tinker.checkpoints.find_sampler(path, tenant_id)
    return SamplingOpening(
        tenant_id=tenant_id,
        session_id=wish.session_id,
        seq=wish.sampling_session_seq_id,
        base=record.base,
        base_model=wish.base_model or f"{ORG}{record.base}",
        revision=revision,
        model_path=model_path,
        model_id=path.model_id,
        policy_id=record.policy_id,
    )


@router.post("/asample")
async def asample(body: DataBodyDep, caller: InferCaller, tinker: TinkerDep) -> Response:
    """Queue a sample."""
    wish = read_json(body, SampleBody)
    opened = await find_sampler(sampling_session_of(wish), caller.tenant_id, tinker)
    engine = await tinker.samples.describe(opened.base)
    plan = plan_sample(
        wish,
        max_context=engine.max_context,
        vocab_size=engine.vocab_size,
        max_completions=engine.max_completions,
    )
    check_answer_bytes(
        sample_answer_bytes(plan),
        tinker.max_answer_bytes,
        lower=("topk_sample_logprobs", "topk_prompt_logprobs", "num_samples", "sampling_params.max_tokens"),
    )
    order = SampleOrder(
        tenant_id=caller.tenant_id,
        key=caller.key_id,
        base=opened.base,
        revision=opened.revision,
        plan=plan,
    )
    request_id = tinker.samples.submit(order)
    return answer({"request_id": request_id, "sample_sequence_ids": sequence_ids(plan)})
