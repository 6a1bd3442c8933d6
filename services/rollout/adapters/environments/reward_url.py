"""Environments that are a URL: one answer to each row of the arguments, rewarded by the operator's server.

The server gets ``{"items": [{id, prompt, completion, reference}]}`` and answers ``{"rewards": [number]}``.
An id is the same when an item is sent again. Nothing of it runs here, so it needs no worker.
"""

import asyncio
import random
from collections.abc import Mapping
from typing import Annotated, Any

import httpx
import msgspec

from mint_common.errors import InvalidField, TaskFailed
from mint_common.events import EnvironmentSpec
from services.rollout.core.environment import (
    EnvironmentFault,
    EnvironmentInfo,
    EnvironmentTask,
    EpisodeCall,
    EpisodeReport,
)
from services.rollout.core.environment_answers import read_reports

_TRIES = 3
_PAUSE_SECONDS = 0.5
_SCORE_SECONDS = 60.0
_MAX_ANSWER_BYTES = 1 << 20


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prompt: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]  # JSON
    reference: Any = None  # JSON


class _Args(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rows: Annotated[list[_Row], msgspec.Meta(min_length=1)]


class _Rewards(msgspec.Struct, frozen=True):
    rewards: Annotated[list[float], msgspec.Meta(min_length=1, max_length=1)]


class RewardUrls:
    """Runs episodes of environments of kind ``http``."""

    def describe(self, environment: EnvironmentSpec) -> EnvironmentInfo:
        """Describe an environment. Raises InvalidField for wrong arguments."""
        rows = _rows(environment.args)
        return EnvironmentInfo(description=f"{environment.id}: a reward URL", tasks=len(rows))

    def draw(self, environment: EnvironmentSpec, n: int, seed: int) -> list[EnvironmentTask]:
        """Draw rows; none comes again before all have come. Raises TaskFailed."""
        try:
            rows = _rows(environment.args)
        except InvalidField as error:
            raise TaskFailed(task=environment.id, problem=str(error)) from error
        chosen: list[int] = []
        source = random.Random(seed)
        while len(chosen) < n:
            chosen += source.sample(range(len(rows)), min(len(rows), n - len(chosen)))
        return [EnvironmentTask(key=str(at), entry=msgspec.json.encode(rows[at]).decode()) for at in chosen]

    async def run(
        self, environment: EnvironmentSpec, url: str, entry: str, call: EpisodeCall
    ) -> EpisodeReport:
        """Run an episode: ask the model once, then the URL for the reward. Raises EnvironmentFault."""
        row = msgspec.json.decode(entry, type=_Row)
        try:
            async with asyncio.timeout(environment.episode_seconds):
                text, is_truncated = await _asked(call, row)
                item = {"id": call.episode_id, "prompt": row.prompt, "completion": text}
                reward = await _rewarded(url, {**item, "reference": row.reference})
                told = {"reward": reward, "is_truncated": is_truncated}
            (report,) = read_reports([told], episodes=1)
        except TimeoutError as error:
            problem = f"it took more than {environment.episode_seconds:g} s"
            raise EnvironmentFault(problem, whose="environment") from error
        except (httpx.HTTPError, ValueError, LookupError) as error:
            return EpisodeReport(reward=None, error=f"{type(error).__name__}: {error}"[:4000])
        return report


def _rows(args: Mapping[str, Any]) -> list[_Row]:
    try:
        return msgspec.convert(args, _Args).rows
    except msgspec.ValidationError as error:
        raise InvalidField(field="environment.args", problem=str(error)) from error


async def _asked(call: EpisodeCall, row: _Row) -> tuple[str, bool]:
    """Return the model's answer, and whether it ended at its limit of tokens."""
    body = {
        "model": call.model,
        "messages": row.prompt,
        "temperature": call.temperature,
        "max_tokens": call.max_new_tokens,
    }
    transport = httpx.AsyncHTTPTransport(uds=call.socket)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None) as http:  # noqa: S113  # the episode's own
        answer = await http.post(f"{call.path}/v1/chat/completions", json=body)
    answer.raise_for_status()
    (choice,) = answer.json()["choices"]
    return choice["message"]["content"] or "", choice["finish_reason"] == "length"


async def _rewarded(url: str, item: Mapping[str, Any]) -> float:
    """Return the reward of an item. Raises HTTPError, ValueError, EnvironmentFault if the server is away."""
    problem = ""
    async with httpx.AsyncClient(timeout=_SCORE_SECONDS) as http:
        for tried in range(_TRIES):
            await asyncio.sleep(_PAUSE_SECONDS * tried)
            try:
                status, answer = await _posted(http, url, {"items": [item]})
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if status < 500:
                if status >= 400:
                    raise ValueError(
                        f"the reward URL answers {status}: {answer[:500].decode(errors='replace')}"
                    )
                return msgspec.json.decode(answer, type=_Rewards).rewards[0]
            problem = f"it answers {status}"
    raise EnvironmentFault(f"the reward URL is away: {problem}", whose="infrastructure")


async def _posted(http: httpx.AsyncClient, url: str, body: Mapping[str, Any]) -> tuple[int, bytes]:
    """Return the status and at most so many bytes of the answer."""
    found = b""
    async with http.stream("POST", url, json=body) as answer:
        async for part in answer.aiter_bytes():
            found += part
            if len(found) > _MAX_ANSWER_BYTES:
                raise ValueError(f"the reward URL's answer is longer than {_MAX_ANSWER_BYTES} bytes")
    return answer.status_code, found
