"""``/mint/v1/jobs/{job}/episodes`` and ``/mint/v1/episodes``: agents elsewhere that a job trains on.

An agent claims episodes and rewards them with a key of its tenant. In between it calls the policy below the
episode's address, with the episode's own key, as OpenAI's and Anthropic's clients do; rollout answers.
"""

from dataclasses import replace
from typing import Annotated, Any, ClassVar

import msgspec
from fastapi import APIRouter, Path, Request, Response

from mint_common.authority import Caller
from mint_common.examples import json_body
from mint_common.job_requests import ClaimBody, RewardBody
from mint_common.json_types import JsonObject
from mint_common.runtime.disconnect import cancelled_on_disconnect
from services.gateway.core.episode_keys import PREFIX
from services.gateway.http.edge.context import key_in
from services.gateway.http.edge.routes import Api, GatewayRoute
from services.gateway.http.mint.context import JOBS
from services.gateway.http.mint.forwarding import Forwarding, TrainJobs
from services.gateway.http.mint.jobs import JobPath

ADDRESS = "/mint/v1/episodes/{episode}"


EpisodePath = Annotated[str, Path(alias="episode")]
_MESSAGES = [{"role": "user", "content": "2 4 6 8"}]


class AgentRoute(GatewayRoute):
    """A route of agents. A key that was revoked a moment ago claims, samples and rewards nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # Any: FastAPI's
        super().__init__(*args, **kwargs)
        self.asks_afresh |= self.methods != {"GET"}


class EpisodeRoute(AgentRoute):
    """A model call of an episode: its key is the episode's own, or one of its tenant with scope train."""

    api: ClassVar[Api] = "openai"
    max_body_bytes: ClassVar[int] = 4 << 20

    async def caller_of(self, request: Request) -> Caller:
        """Return the caller. Raises Unauthorized."""
        key = key_in(request.headers)
        if not key.startswith(PREFIX):
            return await super().caller_of(request)
        return JOBS.of(request).episode_keys.caller_of(key, episode=request.path_params["episode"])


class AnthropicEpisodeRoute(EpisodeRoute):
    """The same, with errors in the shape of Anthropic's API."""

    api = "anthropic"


router = APIRouter(prefix="/mint/v1", tags=["agents"], route_class=AgentRoute)
anthropic_calls = APIRouter(prefix=ADDRESS, tags=["agents"], route_class=AnthropicEpisodeRoute)
calls = APIRouter(prefix=ADDRESS, tags=["agents"], route_class=EpisodeRoute)


@router.post("/jobs/{job}/episodes", response_model=JsonObject)
async def claim_episodes(_job: JobPath, _body: ClaimBody, request: Request, jobs: TrainJobs) -> Response:
    """Claim episodes of a job whose `env.kind` is `session`, as soon as any are free.

    Each has the `base_url` and `api_key` of its model, and a `deadline` (seconds since the epoch) for its
    reward. The episodes of a group have the same `index` and `seed`: run the same task in all of them.
    `episodes` is empty if none became free in time; `is_ended` says that there will be no more.
    """
    parts = JOBS.of(request)
    async with cancelled_on_disconnect(request):
        answer = await replace(jobs, limits=parts.of_agents).forward(is_long=True)
    told = msgspec.json.decode(bytes(answer.body))
    origin = (parts.public_url or str(request.base_url)).rstrip("/")
    for each in told["episodes"]:
        root = origin + ADDRESS.format(episode=each["episode"])
        each["base_url"], each["anthropic_base_url"] = f"{root}/v1", root
        each["api_key"] = parts.episode_keys.make(jobs.caller.tenant_id, each["episode"])
    return Response(msgspec.json.encode(told), media_type="application/json")


@router.post("/episodes/{episode}/reward", response_model=JsonObject)
async def reward_episode(_episode: EpisodePath, _body: RewardBody, jobs: TrainJobs) -> Response:
    """Post the reward of a claimed episode, once: it ends the episode, and its model calls are trained on.

    `error` in place of `reward` says that the episode failed: it is not trained on.
    """
    return await jobs.forward()


def _asked(**example: object) -> JsonObject:
    return json_body({"model": "policy", **example})


async def _answered(request: Request, jobs: Forwarding) -> Response:
    """Return rollout's answer to a model call, whole or as the events of a stream."""
    async with cancelled_on_disconnect(request):
        return await replace(jobs, limits=JOBS.of(request).of_agents).relay()


@calls.get("/v1/models", response_model=JsonObject)
async def list_episode_models(_episode: EpisodePath, request: Request, jobs: TrainJobs) -> Response:
    """Return the one model of an episode: the policy that trains on it."""
    return await _answered(request, jobs)


@calls.post(
    "/v1/chat/completions", response_model=JsonObject, openapi_extra=_asked(messages=_MESSAGES, max_tokens=8)
)
async def chat_in_episode(_episode: EpisodePath, request: Request, jobs: TrainJobs) -> Response:
    """Answer a conversation of an episode; what is sampled is trained on."""
    return await _answered(request, jobs)


@calls.post(
    "/v1/chat/completions/tokens",
    response_model=JsonObject,
    openapi_extra=_asked(messages=_MESSAGES, tokens=[53, 35, 55]),
)
async def chat_with_tokens_in_episode(_episode: EpisodePath, request: Request, jobs: TrainJobs) -> Response:
    """Answer a conversation of an episode whose prompt is `tokens`."""
    return await _answered(request, jobs)


@calls.post("/v1/responses", response_model=JsonObject, openapi_extra=_asked(input="2 4 6 8"))
async def respond_in_episode(_episode: EpisodePath, request: Request, jobs: TrainJobs) -> Response:
    """Answer an input of an episode, as OpenAI's Responses do; what is sampled is trained on."""
    return await _answered(request, jobs)


@anthropic_calls.post(
    "/v1/messages", response_model=JsonObject, openapi_extra=_asked(messages=_MESSAGES, max_tokens=8)
)
async def send_message_in_episode(_episode: EpisodePath, request: Request, jobs: TrainJobs) -> Response:
    """Answer a conversation of an episode, as Anthropic's Messages do; what is sampled is trained on."""
    return await _answered(request, jobs)


@calls.post("/inference/v1/generate", response_model=JsonObject, openapi_extra=_asked(token_ids=[58, 40]))
async def generate_in_episode(_episode: EpisodePath, request: Request, jobs: TrainJobs) -> Response:
    """Continue the tokens of an episode, as vLLM's token server does."""
    return await _answered(request, jobs)


@calls.post("/tokenize", response_model=JsonObject, openapi_extra=_asked(prompt="2 4 6 8"))
async def tokenize_in_episode(_episode: EpisodePath, request: Request, jobs: TrainJobs) -> Response:
    """Return the token ids of a prompt, or of a conversation under the base's chat template."""
    return await _answered(request, jobs)
