"""Routes of agents elsewhere: they claim episodes of a job, call the policy in them, and post rewards."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse

from mint_common.client.http import InternalHttp
from mint_common.errors import InvalidField
from mint_common.job_requests import ClaimBody, RewardBody
from mint_common.json_types import JsonObject
from mint_common.runtime.disconnect import cancelled_on_disconnect
from mint_common.runtime.edge_routes import BodyRoute, StreamDep
from services.rollout.core.job_control import is_over
from services.rollout.http.context import PartsDep, Tenant
from services.rollout.http.jobs import in_progress, own_job

router = APIRouter(prefix="/internal/tenants/{tenant_id}", route_class=BodyRoute)

EpisodeName = Annotated[str, Path(alias="episode", pattern=r"^[A-Za-z0-9_-]{1,100}$")]


@router.post("/jobs/{job_id}/episodes")
async def claim(
    tenant_id: Tenant, job_id: str, body: ClaimBody, request: Request, parts: PartsDep
) -> JsonObject:
    """Hand free episodes of a job to an agent."""
    job = await own_job(parts.jobs, tenant_id, job_id)
    environment = job.spec.environment
    if environment is None or not environment.is_session:
        found = "a task or file" if environment is None else f"an environment of kind {environment.kind}"
        problem = f"trains on {found}: agents claim episodes of jobs whose env.kind is session"
        raise InvalidField(field="job", problem=problem)
    async with cancelled_on_disconnect(request):
        job, episodes = await parts.agents.claim(job, body)
    (progress,) = await in_progress(parts.jobs, [job], parts.trainers)
    return {
        "job_id": job.job_id,
        "state": job.state.value,
        "is_ended": is_over(job),
        "reason": job.reason,
        "waits_for": "" if episodes else progress.waits_for,
        "args": environment.args,
        "episodes": episodes,
    }


@router.post("/jobs/{job_id}/episodes/here")
async def claim_here(tenant_id: Tenant, job_id: str, body: ClaimBody, parts: PartsDep) -> list[JsonObject]:
    """Hand over free episodes that this process has; another one asks for its caller."""
    return await parts.agents.claim_here(await own_job(parts.jobs, tenant_id, job_id), body.n)


@router.post("/episodes/{episode}/reward")
async def reward(
    tenant_id: Tenant, episode: EpisodeName, body: RewardBody, request: Request, parts: PartsDep
) -> Response:
    """Take the reward of an episode."""
    elsewhere = await parts.agents.place_of(episode)
    if elsewhere is not None:
        return await _forwarded(parts.agents.siblings.at(elsewhere), request, await request.body())
    return JSONResponse(parts.agents.reward(tenant_id, episode, body))


@router.api_route("/episodes/{episode}/{call:path}", methods=["GET", "POST"])
async def call_model(
    tenant_id: Tenant, episode: EpisodeName, call: str, request: Request, parts: PartsDep, _body: StreamDep
) -> Response:
    """Answer a model call of an episode, as the model door does."""
    elsewhere = await parts.agents.place_of(episode)
    if elsewhere is None:
        found = parts.agents.episode(tenant_id, episode)
        return await parts.door_calls.answer(f"{request.method} /{call}", request, found)
    with parts.door_calls.held(tenant_id) as held:
        body = await held.body(request)
        async with cancelled_on_disconnect(request):
            return await _forwarded(parts.agents.siblings.at(elsewhere), request, body)


async def _forwarded(sibling: InternalHttp, request: Request, body: bytes) -> Response:
    """Return the answer of the process that has the episode."""
    relayed = await sibling.relay(request.url.path, body, {}, method=request.method)
    try:
        return Response(await relayed.whole(), media_type=relayed.headers["content-type"])
    finally:
        relayed.close()
